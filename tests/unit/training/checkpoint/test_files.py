"""Files of a checkpoint reach the disk as they are written."""

import hashlib
import os

import numpy as np
import pytest

from storage import digested_file
from training.checkpoint import files


def test_little_is_left_for_the_last_fsync(tmp_path, monkeypatch):
    synced, fdatasync = [], os.fdatasync

    def sync(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        fdatasync(descriptor)

    monkeypatch.setattr(digested_file, "_SYNC_BYTES", 1000)
    monkeypatch.setattr(digested_file, "_GATHERED_BYTES", 320)
    monkeypatch.setattr(os, "fdatasync", sync)
    values = np.random.default_rng().normal(size=(200, 8)).astype(np.float32)
    writer = files.NpyWriter(tmp_path / "array.npy", values.shape, values.dtype)
    for begin in range(0, 200, 10):
        writer.append(values[begin : begin + 10])
    writer.close()
    content = (tmp_path / "array.npy").read_bytes()
    # A piece is 320 bytes: at most that much more than the limit lies between two.
    assert np.diff([0, *synced, len(content)]).max() < 1320
    assert writer.bytes == len(content)
    assert writer.digest == hashlib.sha256(content).hexdigest()
    np.testing.assert_array_equal(np.load(tmp_path / "array.npy", allow_pickle=False), values)


def test_large_arrays_are_gathered_and_digested_beside(tmp_path):
    random = np.random.default_rng()
    rows = [int(n) for n in random.integers(1, 1 << 20, 8)] + [
        digested_file._GATHERED_BYTES // 4 + 5
    ]
    values = random.normal(size=sum(rows)).astype(np.float32)
    writer = files.NpyWriter(tmp_path / "array.npy", values.shape, values.dtype)
    for piece in np.split(values, np.cumsum(rows)[:-1]):
        writer.append(piece)
    writer.close()
    content = (tmp_path / "array.npy").read_bytes()
    assert content[-values.nbytes :] == values.tobytes()
    assert writer.digest == hashlib.sha256(content).hexdigest()


def test_every_damaged_file_is_named_in_order(tmp_path):
    random = np.random.default_rng()
    names = [f"{number:02}.npy" for number in range(20)]
    for name in names:
        (tmp_path / name).write_bytes(random.bytes(int(random.integers(1, 5_000_000))))
    digests = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in random.permutation(names)
    }
    assert files.verify_all(tmp_path, digests) == []
    order = list(digests)
    content = bytearray((tmp_path / order[3]).read_bytes())
    content[random.integers(len(content))] ^= 1 << random.integers(8)
    (tmp_path / order[3]).write_bytes(content)
    (tmp_path / order[17]).unlink()
    (tmp_path / order[8]).write_bytes(b"")
    found = [str(error) for error in files.verify_all(tmp_path, digests)]
    assert [text.partition(": ")[0] for text in found] == [
        str(tmp_path / order[number]) for number in (3, 8, 17)
    ]
    assert "SHA-256 is" in found[0]
    assert "No such file" in found[2]


def test_an_array_that_is_not_whole_is_not_closed(tmp_path):
    writer = files.NpyWriter(tmp_path / "array.npy", (3, 2), "float32")
    writer.append(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"array\.npy: 8 bytes of \(3, 2\) are not written"):
        writer.close()
    with pytest.raises(ValueError, match=r"array\.npy: 4 bytes too many"):
        writer.append(np.zeros(3, np.float32))
    writer.abandon()
