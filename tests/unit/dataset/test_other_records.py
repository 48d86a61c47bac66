"""Unsupported formats are named in the error: int64 ids, multi-hot ids, values of other sizes."""

import numpy as np
import pytest

from dataset import DatasetError, open_split
from tests.support.dataset.hand_written import (
    VOCAB_SIZES,
    random_arrays,
    seed_metadata,
    write_narrow,
    write_raw,
    write_three_file,
)

CRITEO = [100 + t for t in range(26)]
HOTNESS = [3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1]


def write_wide_ids(path, arrays):
    """HugeCTR's raw records with long long keys."""
    parts = [arrays.label[:, None], arrays.dense, arrays.ids.astype("<i8").view("<i4")]
    np.hstack(parts).tofile(path)


def write_wide_values(path, arrays):
    np.hstack([arrays.label[:, None], arrays.dense, arrays.ids]).astype("<i8").tofile(path)


def write_multi_hot(path, arrays):
    ids = np.repeat(arrays.ids, HOTNESS, axis=1)
    np.hstack([arrays.label[:, None], arrays.dense, ids]).astype("<i4").tofile(path)


# 20 records of 264 bytes and 40 of 912 are a multiple of 160 bytes as well.
@pytest.mark.parametrize("samples", [1, 2, 20, 40, 1000])
@pytest.mark.parametrize(
    ("write", "shown"),
    [(write_wide_ids, r"264 bytes, .*int64"), (write_wide_values, r"320 bytes, .*8-byte"),
     (write_multi_hot, r"912 bytes, .*multi-hot")],
)  # fmt: skip
def test_open_split_names_other_raw_records(tmp_path, rng, write, shown, samples):
    arrays = random_arrays(samples, rng, CRITEO)
    # A count or an id of 0 or 1 could be a label: a single record might fit both formats. The
    # second half of a record of 8-byte values begins with the low half of its id 6.
    arrays.ids[0, 6] = CRITEO[6] - 1
    write(tmp_path / "raw.bin", arrays._replace(dense=arrays.dense + 2))
    with pytest.raises(DatasetError, match=shown) as caught:
        open_split(tmp_path / "raw.bin", vocab_sizes=CRITEO)
    assert caught.value.expected == 160


@pytest.mark.parametrize("samples", [1, 33, 264, 912])
@pytest.mark.parametrize("tables", [1, 8, 26])
def test_open_split_accepts_raw_records(tmp_path, rng, samples, tables):
    arrays = random_arrays(samples, rng, CRITEO[:tables])
    write_raw(tmp_path / "raw.bin", arrays)
    assert open_split(tmp_path / "raw.bin", vocab_sizes=CRITEO[:tables]).samples == samples
    # Zeros fit every format.
    write_raw(tmp_path / "raw.bin", type(arrays)(*(np.zeros_like(part) for part in arrays)))
    assert open_split(tmp_path / "raw.bin", vocab_sizes=CRITEO[:tables]).samples == samples


def test_open_split_names_column_files_of_another_width(tmp_path, rng):
    arrays = random_arrays(50, rng)
    write_three_file(tmp_path / "a", arrays, seed_metadata())
    arrays.ids.astype(np.int64).tofile(tmp_path / "a" / "category.bin")
    with pytest.raises(DatasetError, match=r"8 bytes, .*int32"):
        open_split(tmp_path / "a")
    write_narrow(tmp_path / "b", arrays, "dense.bin", "category_{}.bin")
    arrays.ids[:, 3].astype(np.int32).tofile(tmp_path / "b" / "category_3.bin")
    with pytest.raises(DatasetError, match=r"category_3\.bin: .*4 bytes, .*int16"):
        open_split(tmp_path / "b", vocab_sizes=VOCAB_SIZES)
