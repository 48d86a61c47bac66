"""Initial values against Philox4x32-10 written in NumPy, itself against published vectors."""

import numpy as np
import pytest
import tensorflow as tf

from ops.embedding import create_table, embedding_initialize, write_rows
from tests.support import launch


def philox4x32_10(counter, key):
    """Counter [..., 4] and key [2], uint32, to [..., 4]; Salmon et al. 2011, section 4.3."""
    c = [counter[..., i].astype(np.uint64) for i in range(4)]
    k = [int(key[0]), int(key[1])]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a = np.uint64(0xD2511F53) * c[0]
        b = np.uint64(0xCD9E8D57) * c[2]
        c = [
            (b >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]),
            b & low,
            (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]),
            a & low,
        ]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return np.stack(c, axis=-1).astype(np.uint32)


def expected_rows(seed, table_index, rows, dimension, limit):
    """Values [len(rows), D] of the given row numbers of a table, as the docstring defines them."""
    columns = np.arange(dimension)
    counter = np.zeros((len(rows), dimension, 4), np.uint32)
    counter[..., 0] = (rows & 0xFFFFFFFF)[:, np.newaxis]
    counter[..., 1] = (rows >> 32)[:, np.newaxis]
    counter[..., 2] = columns // 4
    counter[..., 3] = table_index
    words = philox4x32_10(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    word = np.take_along_axis(words, (columns % 4)[np.newaxis, :, np.newaxis], axis=2)[..., 0]
    unit = (word >> 8).astype(np.float32) * np.float32(2**-23) - np.float32(1)
    return np.float32(limit) * unit


def test_reference_gives_the_published_vectors():
    # Known answers of Random123, the authors' own library.
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
        np.testing.assert_array_equal(philox4x32_10(np.array(counter, np.uint32), key), answer)


@pytest.mark.parametrize("dimension", [1, 4, 63, 64, 65, 128, 256])
@pytest.mark.parametrize("seed", [0, 12345, 2**62 + 7, -3])
def test_values_are_the_generator_s(isa, dimension, seed):
    table = create_table(50, dimension)
    table.assign(tf.fill(table.shape, 7.0))
    embedding_initialize(table, 10, 33, 5, seed, 0.25, first_row=3, row_stride=4)
    values = table.numpy()
    expected = expected_rows(seed, 5, 3 + 4 * np.arange(33), dimension, 0.25)
    np.testing.assert_array_equal(values[10:43], expected)
    np.testing.assert_array_equal(values[:10], 7)
    np.testing.assert_array_equal(values[43:], 7)


def test_row_numbers_beyond_32_bits():
    table = create_table(2, 8)
    embedding_initialize(table, 0, 2, 0, 1, 1.0, first_row=2**40, row_stride=2**33)
    expected = expected_rows(1, 0, 2**40 + 2**33 * np.arange(2), 8, 1.0)
    np.testing.assert_array_equal(table.numpy(), expected)


def test_values_do_not_depend_on_who_owns_the_rows():
    whole = create_table(1001, 16)
    embedding_initialize(whole, 0, 1001, 2, 9, 0.5)
    for rank in range(3):
        rows = np.arange(rank, 1001, 3)
        part = create_table(len(rows) + 5, 16)
        part.assign(tf.zeros(part.shape))
        embedding_initialize(part, 5, len(rows), 2, 9, 0.5, first_row=rank, row_stride=3)
        np.testing.assert_array_equal(part.numpy()[5:], whole.numpy()[rows])


def test_values_are_uniform_and_differ_between_tables_and_seeds():
    tables = []
    for table_index, seed in ((0, 0), (1, 0), (0, 1)):
        table = create_table(20000, 64)
        embedding_initialize(table, 0, 20000, table_index, seed, 2.0)
        tables.append(table.numpy())
    for values in tables:
        assert values.min() >= -2 and values.max() < 2
        counts, _ = np.histogram(values, bins=64, range=(-2, 2))
        mean = values.size / 64
        # Chi-square with 63 degrees of freedom: beyond 120 once in 10^5.
        assert np.sum((counts - mean) ** 2 / mean) < 120
        assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.005
    assert abs(np.corrcoef(tables[0].ravel(), tables[1].ravel())[0, 1]) < 0.005
    assert abs(np.corrcoef(tables[0].ravel(), tables[2].ravel())[0, 1]) < 0.005


def test_parts_outside_the_variable_are_named():
    table = create_table(10, 4)
    for base_row, rows in ((-1, 3), (0, 11), (10, 1), (3, -1)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="10 rows"):
            embedding_initialize(table, base_row, rows, 0, 0, 1.0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"row_stride.* 0 and 0"):
        embedding_initialize(table, 0, 1, 0, 0, 1.0, row_stride=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"table_index.*-1"):
        embedding_initialize(table, 0, 1, -1, 0, 1.0)


def test_a_held_value_is_not_overwritten():
    table = create_table(10, 4)
    table.assign(tf.ones(table.shape))
    held = table.read_value()
    with pytest.raises(tf.errors.FailedPreconditionError, match="held by a reader"):
        embedding_initialize(table, 0, 10, 0, 0, 1.0)
    del held
    embedding_initialize(table, 0, 10, 0, 0, 1.0)


def test_a_created_table_owns_its_only_buffer():
    """The first update must not find a second owner, or it would copy the table."""
    table = create_table(1000, 16)
    embedding_initialize(table, 0, 1000, 0, 0, 1.0)  # refuses a buffer with two owners


def test_rows_are_written():
    table, sums = create_table(1000, 16), tf.Variable(tf.zeros([1000]))
    table.assign(tf.zeros(table.shape))
    expected, random = np.zeros((1000, 16), np.float32), np.random.default_rng()
    for begin, rows in ((0, 3), (997, 3), (10, 0), (4, 900)):
        values = random.standard_normal((rows, 16), np.float32)
        write_rows(table, begin, values)
        write_rows(sums, begin, values[:, 0])
        expected[begin : begin + rows] = values
    np.testing.assert_array_equal(table.numpy(), expected)
    np.testing.assert_array_equal(sums.numpy(), expected[:, 0])
    with pytest.raises(tf.errors.InvalidArgumentError):
        write_rows(table, 998, np.zeros((3, 16), np.float32))


WRITES_A_TABLE = r"""
import re, sys
import numpy as np, tensorflow as tf
from ops.embedding import create_table, write_rows

def peak():
    # Not getrusage: its peak begins with that of the process which started this one.
    return int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) << 10

write = write_rows
if sys.argv[1] == "slices":
    write = lambda variable, begin, values: variable[begin : begin + len(values)].assign(values)
warm, piece = create_table(10, 256), np.ones((1 << 13, 256), np.float32)
write(warm, 3, piece[:2])
before = peak()
table = create_table(1 << 16, 256)
for begin in range(0, 1 << 16, len(piece)):
    write(table, begin, piece)
print((peak() - before) / (1 << 26))
"""


def test_rows_are_written_in_place():
    """A table of 64 MiB, piece by piece: the most memory it took, in tables."""
    took = {}
    for way in ("in place", "slices"):
        done = launch.run(1, "-c", WRITES_A_TABLE, way)
        assert done.returncode == 0, done.stderr
        took[way] = float(done.stdout.split()[-1])
    assert 0.9 < took["in place"] < 1.5
    assert took["slices"] > 1.6  # TensorFlow's own way, or this test could not fail
