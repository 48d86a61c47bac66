"""Local paths, and errors that name their path."""

import errno
import os
import pathlib

import pytest

from storage.paths import NotLocalError, check_local, naming_errors


@pytest.mark.parametrize(
    "address", ["gs://b/d", "s3://b", "hdfs://host:9000/d", "S3A://b", "x-y+z.1://", "file:///d"]
)
def test_check_local_refuses_addresses(address):
    with pytest.raises(NotLocalError) as caught:
        check_local(address)
    assert caught.value.path == address
    assert caught.value.found == address.partition("/")[0] + "//"


@pytest.mark.parametrize("path", ["data", "/a/b", "a:b/c", "./gs://b", "C:/x", "", "1://x", "//x"])
def test_check_local_accepts_paths(path):
    check_local(path)
    check_local(pathlib.Path(path))


def write_named(path, data):
    with naming_errors(path), open(path, "wb", buffering=0) as file:
        file.write(data)


def test_naming_errors_adds_a_missing_path():
    with pytest.raises(OSError) as found:
        write_named("/dev/full", b"x")
    assert (found.value.errno, found.value.filename) == (errno.ENOSPC, "/dev/full")
    with pytest.raises(FileNotFoundError, match="'/none'"), naming_errors("/other"):
        os.stat("/none")
    # NumPy's errors have no errno; their text is kept.
    with pytest.raises(OSError, match="12 items requested") as found, naming_errors("/file"):
        raise OSError("12 items requested")
    assert (found.value.errno, found.value.filename) == (errno.EIO, "/file")
