"""Rows of tables are read by 64-bit offsets, and the check of it for GPUs finds wrong rows."""

import numpy as np
import tensorflow as tf

from model.embedding import tables
from tests.gpu import read_rows


def test_read_rows_uses_64_bit_indices(monkeypatch, seed):
    """With int32 indices a GPU's gather computes int32 offsets; a CPU's does not."""
    gather, dtypes = tf.gather, []

    def recorded(values, indices, *arguments, **options):
        dtypes.append(indices.dtype)
        return gather(values, indices, *arguments, **options)

    monkeypatch.setattr(tables.tf, "gather", recorded)
    assert read_rows.check((300, 70, 3), 100, seed, dimension=8)[1] == 0
    assert set(dtypes) == {tf.int64}


def test_rows_from_other_addresses_are_found(monkeypatch, seed):
    read = tables.FusedTables.read_rows

    def shifted(self, begin, end, state="table"):
        found = read(self, begin, end, state)
        return np.roll(found, 1, axis=0) if begin >= 300 else found

    monkeypatch.setattr(tables.FusedTables, "read_rows", shifted)
    rows, wrong = read_rows.check((300, 70, 3), 100, seed, dimension=8)
    assert 0 < wrong < rows
