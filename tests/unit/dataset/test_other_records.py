"""Data of a format that is not read is named: int64 ids, multi-hot ids, values of another size."""

import json

import numpy as np
import pytest

import split_bin
from dataset import DatasetError, open_dataset, open_split
from tests.support.dataset.hand_written import (
    VOCAB_SIZES,
    random_arrays,
    seed_metadata,
    write_days,
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


# 20 records of 264 bytes and 40 of 912 are whole records of 160 bytes too.
@pytest.mark.parametrize("samples", [1, 2, 20, 40, 1000])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("write", "message"),
    [(write_wide_ids, "records of 264 bytes, as with int64 ids: expected 160 bytes"),
     (write_wide_values, "records of 320 bytes, as with 8-byte values throughout"),
     (write_multi_hot, "records of 912 bytes, as with multi-hot ids of DLRM-DCNv2")],
)  # fmt: skip
def test_raw_records_of_another_format(tmp_path, write, message, samples, seed):
    arrays = random_arrays(samples, CRITEO, seed)
    # Dense counts that are no labels: a single record alone may be both.
    write(tmp_path / "raw.bin", arrays._replace(dense=arrays.dense + 2))
    with pytest.raises(DatasetError, match=message):
        open_split(tmp_path / "raw.bin", vocab_sizes=CRITEO)


@pytest.mark.parametrize("samples", [1, 33, 264, 912])
@pytest.mark.parametrize("tables", [1, 8, 26])
def test_raw_records_are_no_other_format(tmp_path, samples, tables):
    arrays = random_arrays(samples, CRITEO[:tables], samples)
    write_raw(tmp_path / "raw.bin", arrays)
    assert open_split(tmp_path / "raw.bin", vocab_sizes=CRITEO[:tables]).samples == samples
    # Zeros fit every format.
    write_raw(tmp_path / "raw.bin", type(arrays)(*(np.zeros_like(part) for part in arrays)))
    assert open_split(tmp_path / "raw.bin", vocab_sizes=CRITEO[:tables]).samples == samples


def test_split_bin_names_the_record_size_of_int64_ids(tmp_path, capsys):
    write_wide_ids(tmp_path / "train_data.bin", random_arrays(20, CRITEO))
    assert split_bin.main([str(tmp_path / "train_data.bin"), str(tmp_path / "train")]) == 2
    assert "records of 264 bytes, as with int64 ids" in capsys.readouterr().err


def test_column_files_of_int64(tmp_path):
    arrays = random_arrays(50)
    write_three_file(tmp_path / "a", arrays, seed_metadata())
    arrays.ids.astype(np.int64).tofile(tmp_path / "a" / "category.bin")
    with pytest.raises(
        DatasetError, match=r"category.bin: .*values of 8 bytes, expected int32: in"
    ):
        open_split(tmp_path / "a")
    write_narrow(tmp_path / "b", arrays, "dense.bin", "category_{}.bin")
    arrays.ids[:, 3].astype(np.int32).tofile(tmp_path / "b" / "category_3.bin")
    with pytest.raises(DatasetError, match=r"category_3.bin: .*values of 4 bytes, expected int16"):
        open_split(tmp_path / "b", vocab_sizes=VOCAB_SIZES)


@pytest.mark.parametrize("hotness", [[2] + [1] * 7, HOTNESS])
def test_multi_hot_metadata(tmp_path, hotness):
    content = seed_metadata() | {"hotness_per_table": hotness}
    write_three_file(tmp_path / "train", random_arrays(50), content)
    with pytest.raises(DatasetError, match=r"metadata.json: hotness_per_table: expected 1 for eve"):
        open_split(tmp_path / "train")
    content["hotness_per_table"] = [1] * 8
    (tmp_path / "train" / "metadata.json").write_text(json.dumps(content))
    assert open_split(tmp_path / "train").samples == 50


@pytest.mark.parametrize("others", [True, False])
def test_multi_hot_days(tmp_path, others):
    arrays = random_arrays(50)
    if others:
        write_days(tmp_path, arrays, [25, 25])
    tmp_path.joinpath("day_0_sparse.npy").unlink(missing_ok=True)
    tmp_path.joinpath("day_1_sparse.npy").unlink(missing_ok=True)
    np.savez(tmp_path / "day_0_sparse_multi_hot.npz", arrays.ids)
    for open_it in (open_split, open_dataset):
        with pytest.raises(
            DatasetError, match=r"day_0_sparse_multi_hot.npz: .*multi-hot data is not supported"
        ):
            open_it(tmp_path, vocab_sizes=VOCAB_SIZES)
