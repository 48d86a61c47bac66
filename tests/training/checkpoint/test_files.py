"""Files of a checkpoint reach the disk as they are written."""

import hashlib
import os

import numpy as np
import pytest

from training.checkpoint import files


def test_little_is_left_for_the_last_fsync(tmp_path, monkeypatch):
    synced, fdatasync = [], os.fdatasync

    def sync(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        fdatasync(descriptor)

    monkeypatch.setattr(files, "_SYNC_BYTES", 1000)
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


def test_an_array_that_is_not_whole_is_not_closed(tmp_path):
    writer = files.NpyWriter(tmp_path / "array.npy", (3, 2), "float32")
    writer.append(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"array\.npy: 8 bytes of \(3, 2\) are not written"):
        writer.close()
    writer.abandon()
