"""Which paths are local."""

import pathlib

import pytest

from storage.paths import NotLocalError, check_local


@pytest.mark.parametrize(
    "address", ["gs://b/d", "s3://b", "hdfs://host:9000/d", "S3A://b", "x-y+z.1://"]
)
def test_check_local_refuses_addresses(address):
    with pytest.raises(NotLocalError, match="mount the .*://.* storage"):
        check_local(address)


def test_check_local_says_how_a_file_address_is_written():
    with pytest.raises(NotLocalError, match="write it without file://"):
        check_local("file:///data")


@pytest.mark.parametrize("path", ["data", "/a/b", "a:b/c", "./gs://b", "C:/x", "", "1://x", "//x"])
def test_check_local_accepts_paths(path):
    check_local(path)
    check_local(pathlib.Path(path))
