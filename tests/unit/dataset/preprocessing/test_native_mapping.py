"""Ids by the native search against a dictionary of Python's, and records against a transpose."""

import random

import numpy as np
import pyarrow as pa
import pytest

from dataset.preprocessing import lookup, native


def _find(kernels, column, max_rows, entries, first_id):
    values = np.array(entries, np.uint32)
    table = lookup.Lookup(lookup.build(values, first_id), len(values))
    ids = np.full(len(column), -77, np.int32)
    without = native.find_ids(kernels, column, max_rows, table.table, table.slots, ids)
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
def test_ids_are_those_of_the_dictionary(kernels, max_rows, first_id):
    rng = random.Random()
    for rows in (1, 127, 128, 129, 1000):
        for missing in (0.0, 0.3, 1.0):
            pool = [0, 1, 2**32 - 1, *(rng.randrange(2**32) for _ in range(400))]
            values = [None if rng.random() < missing else rng.choice(pool) for _ in range(rows)]
            keys = {value % (max_rows or 2**32) for value in pool}
            entries = [key for key in keys if rng.random() < 0.7]
            rng.shuffle(entries)
            column = pa.array(values, pa.uint32())
            case = (max_rows, entries, first_id)
            assert _find(kernels, column, *case) == _expected(column, *case)
            # A slice's values and its bits begin in the midst of the buffers.
            for piece in (column[3:], column[13 : rows - 1]):
                if len(piece):
                    assert _find(kernels, piece, *case) == _expected(piece, *case)


def test_what_lies_under_a_null_does_not_count(kernels):
    under = np.array([5, 6, 5], np.uint32)
    column = pa.array(under, mask=np.array([True, False, True]))
    assert np.frombuffer(column.buffers()[1], np.uint32)[:3].tolist() == [5, 6, 5]
    assert _find(kernels, column, None, [5, 6], 1) == ([0, 2, 0], 2)
    assert _find(kernels, column, 10, [5, 6, 0], 0) == ([2, 1, 2], 0)
    assert _find(kernels, column, 10, [5, 6], 0) == ([0, 1, 0], 2)


def test_an_empty_dictionary_has_no_ids(kernels):
    column = pa.array([0, None, 9], pa.uint32())
    assert _find(kernels, column, None, [], 1) == ([0, 0, 0], 3)


def test_values_that_share_a_home_slot_are_all_found(kernels):
    # A table of few slots: most values lie behind others, and the search runs to the last slot.
    entries = list(range(1, 400))
    column = pa.array(range(1000), pa.uint32())
    case = (None, entries, 1)
    assert _find(kernels, column, *case) == _expected(column, *case)


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 1000])
def test_records_are_the_columns_transposed(kernels, rows):
    fields = np.random.default_rng().integers(-(2**31), 2**31, (40, rows), np.int32)
    records = native.to_records(kernels, fields)
    assert records.dtype == np.dtype("<i4") and records.flags.c_contiguous
    np.testing.assert_array_equal(records, fields.T)
