"""The .npy files of a checkpoint."""

import hashlib

import numpy as np
import pytest

from storage import digested_file
from training.checkpoint.errors import DamagedError
from training.checkpoint.npy_files import ArrayFiles, NpyWriter, load_array


def test_arrays_above_the_buffer_size_keep_their_order(tmp_path, rng):
    rows = [int(n) for n in rng.integers(1, 1 << 18, 8)] + [digested_file._BUFFER_BYTES // 4 + 5]
    values = rng.random(sum(rows), np.float32)
    pieces = np.split(values, np.cumsum(rows)[:-1])
    arrays = ArrayFiles(tmp_path)
    entry = arrays.write("array.npy", values.shape, "float32", pieces)
    content = (tmp_path / "array.npy").read_bytes()
    assert content[-values.nbytes :] == values.tobytes()
    assert arrays.digests == {"array.npy": hashlib.sha256(content).hexdigest()}
    assert arrays.bytes == len(content)
    np.testing.assert_array_equal(load_array(tmp_path, entry), values)


def test_close_and_append_check_the_size(tmp_path):
    writer = NpyWriter(tmp_path / "array.npy", (3, 2), "float32")
    writer.append(np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=r"array\.npy: 8 bytes "):
        writer.close()
    with pytest.raises(ValueError, match=r"array\.npy: 4 bytes "):
        writer.append(np.zeros(3, np.float32))
    writer.abandon()


@pytest.mark.parametrize("shape", [(), (0, 4), (3,), (2, 3)])
def test_load_array_accepts_only_its_own_shape_and_dtype(tmp_path, rng, shape):
    values = rng.normal(size=shape).astype(np.float32)
    entry = ArrayFiles(tmp_path).write("array.npy", shape, "float32", [values])
    np.testing.assert_array_equal(load_array(tmp_path, entry), values, strict=True)
    for wrong in ({"shape": [7, 1]}, {"dtype": "int32"}, {"file": "missing.npy"}):
        with pytest.raises(DamagedError) as caught:
            load_array(tmp_path, {**entry, **wrong})
        assert caught.value.path == str(tmp_path / wrong.get("file", "array.npy"))
