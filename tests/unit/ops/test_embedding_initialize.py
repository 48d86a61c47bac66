"""Initial values against a NumPy reference of Philox4x32-10, which has published answers."""

import numpy as np
import pytest
import tensorflow as tf

from ops.embedding import create_table, embedding_initialize, write_rows
from tests.gpu.reference import initial_rows, philox


def test_philox_reference_equals_published_answers():
    # From Random123, the library of the authors of Philox.
    ones = 0xFFFFFFFF
    for counter, key, answer in (
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ones] * 4, [ones] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ):
        np.testing.assert_array_equal(philox(np.array(counter, np.uint32), key), answer)


@pytest.mark.parametrize("dimension", [1, 63, 64, 65, 256])
@pytest.mark.parametrize("key", [0, 2**62 + 7, -3])
@pytest.mark.parametrize(("first", "stride"), [(0, 1), (3, 4), (2**40, 2**33)])
def test_initial_values_equal_the_reference(isa, dimension, key, first, stride):
    table = create_table(50, dimension)
    table.assign(tf.fill(table.shape, 7.0))
    embedding_initialize(table, 10, 33, 5, key, 0.25, first_row=first, row_stride=stride)
    values = table.numpy()
    expected = initial_rows(first + stride * np.arange(33), dimension, 5, key, 0.25)
    np.testing.assert_array_equal(values[10:43], expected)
    np.testing.assert_array_equal(values[:10], 7)
    np.testing.assert_array_equal(values[43:], 7)


def test_initialize_rejects_rows_outside_the_variable():
    table = create_table(10, 4)
    for base_row, rows in ((-1, 3), (0, 11), (10, 1), (3, -1)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"\b10\b"):
            embedding_initialize(table, base_row, rows, 0, 0, 1.0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"row_stride.*\b0\b.*\b0\b"):
        embedding_initialize(table, 0, 1, 0, 0, 1.0, row_stride=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"table_index.*-1"):
        embedding_initialize(table, 0, 1, -1, 0, 1.0)


def test_initialize_rejects_a_table_with_a_reader():
    table = create_table(10, 4)
    table.assign(tf.ones(table.shape))
    held = table.read_value()
    with pytest.raises(tf.errors.FailedPreconditionError):
        embedding_initialize(table, 0, 10, 0, 0, 1.0)
    del held
    embedding_initialize(table, 0, 10, 0, 0, 1.0)


def test_write_rows_overwrites_only_those_rows(rng):
    table, sums = create_table(1000, 16), tf.Variable(tf.zeros([1000]))
    table.assign(tf.zeros(table.shape))
    expected = np.zeros((1000, 16), np.float32)
    for begin, rows in ((0, 3), (997, 3), (10, 0), (4, 900)):
        values = rng.standard_normal((rows, 16), np.float32)
        write_rows(table, begin, values)
        write_rows(sums, begin, values[:, 0])
        expected[begin : begin + rows] = values
    np.testing.assert_array_equal(table.numpy(), expected)
    np.testing.assert_array_equal(sums.numpy(), expected[:, 0])
    with pytest.raises(tf.errors.InvalidArgumentError):
        write_rows(table, 998, np.zeros((3, 16), np.float32))
