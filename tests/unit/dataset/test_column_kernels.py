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


def narrow_columns(rows, rng, tables=5):
    dtypes = rng.permutation([np.int8, np.int16, np.int32, np.int8, np.int32] * 6)[:tables]
    return [
        rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, rows, dtype, endpoint=True)
        for dtype in dtypes
    ]


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("given", ["one array", "several", "strided"])
def test_narrow_ids_copies_ids_to_columns(rows, rng, given):
    expected = narrow_columns(rows, rng)
    wide = np.zeros((rows, 9), np.int32)
    wide[:, 2:7] = np.stack(expected, axis=1)
    ids = [wide[:, 2:7]] if given == "strided" else [np.ascontiguousarray(wide[:, 2:7])]
    if given == "several":
        ids = [np.ascontiguousarray(part) for part in np.split(ids[0], [1, 3], axis=1)]
    found = [np.empty_like(column) for column in expected]
    column_kernels.narrow_ids(ids, found)
    for ours, column in zip(found, expected):
        np.testing.assert_array_equal(ours, column)


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("shape", ["columns", "wide parts", "unsigned"])
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("tables", [5, 8, 26])
def test_widen_ids_copies_columns_to_ids(rows, rng, shape, before, tables):
    columns = narrow_columns(rows, rng, tables)
    if shape == "unsigned":
        columns[1] = rng.integers(0, 2**16, rows, np.uint16)
    expected = np.stack([column.astype(np.int32) for column in columns], axis=1)
    given = [column[:, None] for column in columns]
    if shape == "wide parts":
        given = [np.ascontiguousarray(expected[:, :2]), *given[2:]]
    out = np.full((rows, tables + before), -77, np.int32)
    column_kernels.widen_ids(given, out[:, before:])
    np.testing.assert_array_equal(out[:, before:], expected)
    assert (out[:, :before] == -77).all()


@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_columns_of_several_ids_are_copied(rows, rng):
    values = rng.integers(-128, 127, (rows, 40), np.int32, endpoint=True)

    def split(dtypes):
        cuts = np.sort(rng.permutation(np.arange(1, 40))[:7])
        parts = np.split(values, cuts, axis=1)
        return [part.astype(rng.choice(dtypes), order="C") for part in parts]

    for ids in ([values], split(["int8", "int16", "int32"])):
        expected = split(["int8", "int16", "int32"])
        found = [np.empty_like(column) for column in expected]
        column_kernels.narrow_ids(ids, found)
        for ours, column in zip(found, expected):
            np.testing.assert_array_equal(ours, column)
        out = np.empty_like(values)
        column_kernels.widen_ids(ids, out)
        np.testing.assert_array_equal(out, values)


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
