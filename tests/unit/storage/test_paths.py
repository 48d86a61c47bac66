"""Which paths are local, and which errors name theirs."""

import errno
import os
import pathlib

import pytest

from storage.paths import NotLocalError, check_local, naming_errors


@pytest.mark.parametrize(
    "address", ["gs://b/d", "s3://b", "hdfs://host:9000/d", "S3A://b", "x-y+z.1://"]
)
def test_check_local_refuses_addresses(address):
    with pytest.raises(NotLocalError, match=r"mount the .*://.* storage"):
        check_local(address)


def test_check_local_says_how_a_file_address_is_written():
    with pytest.raises(NotLocalError, match="write it without file://"):
        check_local("file:///data")


@pytest.mark.parametrize("path", ["data", "/a/b", "a:b/c", "./gs://b", "C:/x", "", "1://x", "//x"])
def test_check_local_accepts_paths(path):
    check_local(path)
    check_local(pathlib.Path(path))


def write_named(path, data):
    with naming_errors(path), open(path, "wb", buffering=0) as file:
        file.write(data)


def test_naming_errors_adds_the_name_that_is_missing():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'") as found:
        write_named("/dev/full", b"x")
    assert (found.value.errno, found.value.filename) == (errno.ENOSPC, "/dev/full")
    with pytest.raises(FileNotFoundError, match="'/none'"), naming_errors("/other"):
        os.stat("/none")
    # NumPy's has no number, Arrow's no words of its own.
    with pytest.raises(OSError, match="12 items requested") as found, naming_errors("/file"):
        raise OSError("12 items requested")
    assert (found.value.errno, found.value.filename) == (errno.EIO, "/file")
