"""The native column kernels and their NumPy versions, compared with plain indexing."""

import numpy as np
import pytest

from dataset import column_kernels
from dataset.preprocessing import native

SIZES = [0, 1, 127, 129, 2048, 5000]


@pytest.fixture(params=["native", "portable", "NumPy"], autouse=True)
def kernels(request, monkeypatch):
    """Runs each test with each version; skips the native ones if the library is not built."""
    if request.param == "portable":
        monkeypatch.setenv("DLRM_CPU_ISA", "portable")
    if request.param == "NumPy":
        monkeypatch.setattr(native, "load", lambda: None)
    elif not native.PATH.exists():
        pytest.skip(f"{native.PATH} is not built")
    else:
        assert native.load() is not None, f"{native.PATH} does not fit these sources: make ops"


def random_bits(count, dtype, rng):
    return np.frombuffer(rng.bytes(count * np.dtype(dtype).itemsize), dtype)


@pytest.mark.parametrize("rows", SIZES)
def test_split_records_copies_fields(rows, rng):
    layout = np.dtype(
        {"names": ["a", "b", "c"], "formats": ["<i4", ("<u1", 3), ("<f2", 13)],
         "offsets": [5, 0, 12], "itemsize": 41}
    )  # fmt: skip
    records = random_bits(rows * layout.itemsize, np.uint8, rng)
    columns = {
        "a": np.empty((rows, 1), np.int32), "b": np.empty((rows, 3), np.uint8),
        "c": np.empty((rows, 13), np.float16),
    }  # fmt: skip
    fields = [(layout.fields[name][1], column) for name, column in columns.items()]
    column_kernels.split_records(records, layout.itemsize, fields)
    expected = records.view(layout)
    for name, column in columns.items():
        assert column.tobytes() == np.ascontiguousarray(expected[name]).tobytes(), name


#: Ids of adjacent columns: runs of eight columns of one id, and rows of every kind of length.
WIDTHS = {
    "one id each": [1] * 26,
    "few ids": [1, 1, 3, 2, 7, 1, 8, 5, 4, 6],
    "many ids": [9, 1, 100, 16],
    "runs of columns": [2, *[1] * 17, 12, *[1] * 8, 3],
}


def draw_columns(rows, widths, dtypes, rng):
    """Returns an array of random ids for each width, with the smallest and the largest id."""
    columns = []
    for width in widths:
        info = np.iinfo(rng.choice(dtypes))
        column = rng.integers(info.min, info.max, (rows, width), info.dtype, endpoint=True)
        column.flat[: min(2, column.size)] = [info.min, info.max][: column.size]
        columns.append(column)
    return columns


def between(rows, width, before, after):
    """Returns an int32 array [rows, width] inside wider rows, and the complete rows."""
    outer = np.full((rows, before + width + after), -77, np.int32)
    return outer[:, before : before + width], outer


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS.keys())
@pytest.mark.parametrize("gap", [(0, 0), (14, 1)], ids=["array", "fields of records"])
def test_copy_ids_joins_and_splits_columns(rows, widths, gap, rng):
    columns = draw_columns(rows, widths, ["int8", "uint8", "int16", "int32"], rng)
    expected = np.hstack([column.astype(np.int32) for column in columns])
    joined, outer = between(rows, sum(widths), *gap)
    column_kernels.copy_ids(columns, [joined])
    np.testing.assert_array_equal(joined, expected)
    outside = np.hstack([outer[:, : gap[0]], outer[:, gap[0] + sum(widths) :]])
    assert (outside == -77).all()

    columns = draw_columns(rows, widths, ["int8", "int16", "int32"], rng)
    joined[...] = np.hstack([column.astype(np.int32) for column in columns])
    found = [np.full_like(column, 77) for column in columns]
    column_kernels.copy_ids([joined], found)
    for ours, column in zip(found, columns):
        np.testing.assert_array_equal(ours, column)


@pytest.mark.parametrize("rows", [0, 1, 700])
def test_copy_ids_copies_columns_of_other_widths_and_dtypes(rows, rng):
    def cut(dtypes):
        cuts = np.sort(rng.permutation(np.arange(1, 60))[: rng.integers(1, 20)])
        return [
            part.astype(rng.choice(dtypes), order="C")
            for part in np.split(values, cuts, axis=1)
        ]  # fmt: skip

    for _ in range(10):
        values = rng.integers(0, 127, (rows, 60), np.int32, endpoint=True)
        sources = cut(["int8", "uint8", "int16", "int32"])
        expected = cut(["int8", "int16", "int32"])
        found = [np.full_like(column, 77) for column in expected]
        column_kernels.copy_ids(sources, found)
        for ours, column in zip(found, expected):
            np.testing.assert_array_equal(ours, column)


@pytest.mark.parametrize("rows", SIZES)
def test_look_up_finds_values_and_counts_outside_the_table(rows, rng):
    table = random_bits(1000, np.float16, rng)
    counts = rng.integers(0, 1000, (rows, 13), np.int32)
    found = np.empty(counts.shape, np.float16)
    assert column_kernels.look_up(table, counts, found) is False
    assert found.tobytes() == table[counts].tobytes()
    for wrong in (1000, -1, 2**31 - 1, -(2**31)):
        if rows:
            damaged = counts.copy()
            damaged[rng.integers(rows), rng.integers(13)] = wrong
            assert column_kernels.look_up(table, damaged, found) is True
            inside = damaged == counts
            assert found[inside].tobytes() == table[counts[inside]].tobytes()


def test_halves_to_floats_converts_every_finite_half():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    found = np.empty(halves.shape, np.float32)
    column_kernels.halves_to_floats(halves, found)
    assert found.tobytes() == halves.astype(np.float32).tobytes()
