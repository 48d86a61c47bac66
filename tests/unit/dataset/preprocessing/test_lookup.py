"""Ids by the C++ search against a Python dict, and records against a transpose."""

import numpy as np
import pyarrow as pa
import pytest

from dataset.preprocessing import lookup, native


def _find(column, max_rows, entries, first_id):
    values = np.array(entries, np.uint32)
    table = lookup.Lookup(lookup.build(values, first_id), len(values))
    ids = np.full(len(column), -77, np.int32)
    without = native.find_ids(column, max_rows, table.table, table.slots, ids)
    return ids.tolist(), without


def _expected(column, max_rows, entries, first_id):
    ids = {value: first_id + i for i, value in enumerate(entries)}
    found = []
    for value in column.to_pylist():
        if max_rows is None:
            found.append(None if value is None else ids.get(value))
        else:
            found.append(ids.get((value or 0) % max_rows))
    return [id or 0 for id in found], sum(id is None for id in found)


@pytest.mark.parametrize("max_rows", [None, 1, 7, 1000, 2**31 + 11, 2**32 - 1])
@pytest.mark.parametrize("first_id", [0, 1])
def test_find_ids_equals_a_dict(rng, max_rows, first_id):
    pool = np.array([0, 1, 2**32 - 1, *rng.integers(2**32, size=400)], np.uint32)
    keys = np.unique(pool.astype(np.int64) % (max_rows or 2**32))
    entries = rng.permutation(keys[rng.random(keys.size) < 0.7]).tolist()
    for rows in (1, 127, 128, 129, 1000):
        for missing in (0.0, 0.3, 1.0):
            # Arrow keeps the values under nulls, which count as missing.
            column = pa.array(rng.choice(pool, rows), mask=rng.random(rows) < missing)
            # The values and validity bits of a slice begin in the middle of the buffers.
            for piece in (column, column[3:], column[13 : rows - 1]):
                case = (max_rows, entries, first_id)
                assert _find(piece, *case) == _expected(piece, *case)


def test_find_ids_finds_nothing_in_an_empty_dictionary():
    column = pa.array([0, None, 9], pa.uint32())
    assert _find(column, None, [], 1) == ([0, 0, 0], 3)


def test_find_ids_finds_values_that_share_a_home_slot():
    # In a table with few slots most values follow others, and searches reach the last slot.
    entries = list(range(1, 400))
    column = pa.array(range(1000), pa.uint32())
    case = (None, entries, 1)
    assert _find(column, *case) == _expected(column, *case)


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 1000])
def test_to_records_transposes(rng, rows):
    fields = rng.integers(-(2**31), 2**31, (40, rows), np.int32)
    records = native.to_records(fields)
    assert records.dtype == np.dtype("<i4") and records.flags.c_contiguous
    np.testing.assert_array_equal(records, fields.T)
