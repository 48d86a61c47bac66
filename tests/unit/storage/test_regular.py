"""Special files are refused without waiting for them."""

import os
import socket

import pytest

from storage import regular
from storage.atomic import write_json
from storage.structured import read_json

KINDS = {
    "pipe": "a named pipe", "socket": "a socket", "folder": "a folder",
    "device": "a character device",
}  # fmt: skip


@pytest.fixture
def special(tmp_path, request):
    path = tmp_path / "special"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.close()
    elif request.param == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    return path, KINDS[request.param]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("special", KINDS, indirect=True)
@pytest.mark.parametrize(
    "read",
    [
        regular.open_regular,
        regular.open_regular_fd,
        regular.check_regular,
        lambda path: read_json(path, dict),
    ],
)
def test_open_and_check_refuse_special_files(special, read):
    path, kind = special
    with pytest.raises(OSError) as caught:
        read(path)
    assert caught.value.filename == str(path)
    assert kind in caught.value.strerror


def test_open_regular_reads_and_follows_links(tmp_path):
    (tmp_path / "file").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to("file")
    before = len(os.listdir("/proc/self/fd"))
    with regular.open_regular(tmp_path / "link") as file:
        assert file.read() == b"bytes"
        assert os.get_blocking(file.fileno())
    with pytest.raises(IsADirectoryError):
        regular.open_regular(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_write_json_is_atomic(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    for value, error in (({"a": float("nan")}, ValueError), ({"a": object()}, TypeError)):
        with pytest.raises(error):
            write_json(path, value)
    assert read_json(path, dict) == {"a": 1}
    assert os.listdir(tmp_path) == ["file.json"]
    with pytest.raises(FileNotFoundError) as caught:
        write_json(tmp_path / "no" / "file.json", 1)
    assert str(tmp_path / "no") in str(caught.value.filename)
