"""dataset.validate: its summary against NumPy, its problems and exit statuses."""

import re

import numpy as np
import pytest

from dataset import open_split, validate
from dataset.chunks import CHUNK_SAMPLES, largest_ids
from tests.support.dataset.hand_written import (
    VOCAB_SIZES,
    random_arrays,
    seed_metadata,
    write_three_file,
)


@pytest.fixture
def split(tmp_path, rng):
    """(folder, arrays) of a split of two chunks."""
    arrays = random_arrays(CHUNK_SAMPLES + 1234, rng)
    write_three_file(tmp_path / "train", arrays, seed_metadata())
    return tmp_path / "train", arrays


def test_validate_summary_equals_numpys(split):
    folder, arrays = split
    lines, problems = validate.validate(open_split(folder), progress=False)
    assert problems == []
    assert len(lines) == 2 + 13 + len(VOCAB_SIZES)
    assert f"{arrays.label.mean():.4%} ones" in lines[1]
    dense = np.log(arrays.dense + 3.0)
    for feature in range(13):
        values = dense[:, feature]
        found = re.search(r": (\S+) to (\S+), mean (\S+), (\S+) zeros", lines[2 + feature])
        assert found, lines[2 + feature]
        # Four digits: half a unit of the last is at most 5e-4 of the number.
        expected = values.min(), values.max(), values.mean()
        np.testing.assert_allclose(list(map(float, found.groups()[:3])), expected, rtol=5.01e-4)
        assert found[4] == f"{np.mean(arrays.dense[:, feature] == 0):.2%}"
    for table, rows in enumerate(VOCAB_SIZES):
        seen = len(np.unique(arrays.ids[:, table]))
        expected = f"ids 0 to {rows - 1} of {rows} rows, {seen} seen"
        assert expected in lines[15 + table]


def test_validate_command_reports_the_first_problem(split, capsys):
    folder, _ = split
    assert validate.main([str(folder)]) == 0
    assert capsys.readouterr().out.endswith(f"{folder}: valid\n")
    ids = np.memmap(folder / "category.bin", np.int32, "r+").reshape(-1, len(VOCAB_SIZES))
    ids[66000, 2], ids[3, 2] = -1, 999
    ids.flush()
    assert validate.main([str(folder)]) == 2
    output = capsys.readouterr()
    assert output.out.endswith(f"{folder}: 1 problem\n")
    # The first problem in the file, whichever thread finished first.
    assert "table 2, sample 3" in output.err and "found 999" in output.err
    assert validate.main([str(folder / "none")]) == 2
    assert str(folder / "none") in capsys.readouterr().err


@pytest.mark.parametrize("samples", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize(
    ("dtype", "width"), [("int8", 1), ("int16", 1), ("int32", 8), ("uint8", 3)]
)
def test_largest_ids_treats_negative_ids_as_huge(rng, samples, dtype, width):
    info = np.iinfo(dtype)
    ids = rng.integers(info.min, info.max, (samples, width), dtype=dtype, endpoint=True)
    unsigned = ids.astype(np.int64) % (1 << 8 * ids.dtype.itemsize)
    np.testing.assert_array_equal(largest_ids(ids), unsigned.max(axis=0))
