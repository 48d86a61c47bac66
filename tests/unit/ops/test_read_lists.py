"""`Dlrm>ReadSlice` with several ids per sample: fixed numbers and lists of varying length."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from ops.bags import EMPTY
from ops.read_slice.read_slice import IdCheck, read_slice
from tests.unit.ops.test_read_slice import Column, Segment, random_values, write_column

STORED = ["int8", "uint8", "int16", "int32"]


def random_lists(rng, dtype, samples, longest, bound=100):
    """Returns lists of 0 to `longest` ids; both lengths occur."""
    lengths = rng.integers(0, longest, samples, endpoint=True)
    lengths[rng.permutation(samples)[:2]] = 0, longest
    return [rng.integers(0, bound, length).astype(dtype) for length in lengths]


def write_lists(folder, name, lists, dtype, skip=0):
    """Writes lists as one segment after `skip` bytes; returns (its values, its boundaries)."""
    values = np.concatenate([np.empty(0, dtype), *lists]).astype(dtype)
    boundaries = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    segments = []
    for suffix, array, count in (("", values, len(values)), ("_offsets", boundaries, len(lists))):
        path = folder / f"{name}{suffix}.bin"
        path.write_bytes(b"\xa5" * skip + array.tobytes())
        segments.append(Segment(str(path), skip, count))
    return segments


def lists_column(folder, name, lists, dtype, cuts=(), skip=0):
    """Writes lists to one segment, or several that are cut at some samples."""
    ends = [0, *cuts, len(lists)]
    parts = [
        write_lists(folder, f"{name}{i}", lists[a:b], dtype, skip)
        for i, (a, b) in enumerate(zip(ends, ends[1:]))
    ]
    values, boundaries = zip(*parts)
    return Column(values, dtype, 1, np.dtype(dtype).itemsize, boundaries)


def padded(lists, slots):
    expected = np.full((len(lists), slots), EMPTY, np.int32)
    for row, ids in enumerate(lists):
        expected[row, : len(ids)] = ids
    return expected


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("longest", [1, 3, 16, 17, 40])
def test_lists_are_padded_with_empty_slots(tmp_path, dtype, longest, rng):
    lists = random_lists(rng, dtype, 5000, longest)
    column = lists_column(tmp_path, "ids", lists, dtype, skip=16)
    for slots in (longest, longest + 2):
        result = read_slice(
            [3], [4990], rows=4990, columns=[column], dtype=tf.int32, slots=[slots],
            check=IdCheck([100] * slots, [0] * slots),
        )  # fmt: skip
        np.testing.assert_array_equal(result, padded(lists[3:4993], slots))


@pytest.mark.parametrize("samples", [1, 127, 128, 129, 4500])
def test_lists_and_fixed_columns_are_concatenated(tmp_path, samples, rng):
    lists = [random_lists(rng, dtype, samples + 2, 5) for dtype in ("int16", "int32")]
    fixed = [rng.integers(0, 100, (samples + 2, 3)).astype(dtype) for dtype in ("int8", "int32")]
    columns = [
        write_column(tmp_path / "a.bin", fixed[0]), lists_column(tmp_path, "b", lists[0], "int16"),
        write_column(tmp_path / "c.bin", fixed[1]), lists_column(tmp_path, "d", lists[1], "int32"),
    ]  # fmt: skip
    result = read_slice(
        [1], [samples], rows=samples, columns=columns, dtype=tf.int32, slots=[3, 6, 3, 5],
        check=IdCheck([100] * 17, range(17)),
    )  # fmt: skip
    expected = np.hstack([fixed[0], padded(lists[0], 6), fixed[1], padded(lists[1], 5)])
    np.testing.assert_array_equal(result, expected[1 : samples + 1])


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("width", [2, 214])
def test_wide_columns_equal_numpy(tmp_path, stored, width, rng):
    # More bytes than are read at a time.
    values = random_values(rng, stored, (3000, width))
    one = random_values(rng, "int16", (3000, 1))
    columns = [write_column(tmp_path / "a.bin", values), write_column(tmp_path / "b.bin", one)]
    for chosen, expected in (([0], values), ([0, 1], np.hstack([values, one]))):
        result = read_slice(
            [5], [2990], rows=2990, columns=[columns[i] for i in chosen], dtype=tf.int32
        )
        np.testing.assert_array_equal(result, expected[5:2995].astype(np.int32))


def test_remaining_rows_of_a_part_are_empty(tmp_path, rng):
    lists = random_lists(rng, "int32", 20, 2)
    fixed = rng.integers(1, 100, (20, 2)).astype(np.int32)
    columns = [
        lists_column(tmp_path, "a", lists, "int32"), write_column(tmp_path / "b.bin", fixed)
    ]  # fmt: skip
    result = read_slice(
        [10, 7, 0], [4, 1, 0], rows=12, columns=columns, dtype=tf.int32, slots=[2, 2]
    )
    expected = np.tile(np.array([EMPTY, EMPTY, 0, 0], np.int32), (12, 1))
    rows = np.hstack([padded(lists, 2), fixed])
    expected[0:4], expected[4:5] = rows[10:14], rows[7:8]
    np.testing.assert_array_equal(result, expected)


def test_segments_of_lists_form_one_column(tmp_path, rng):
    lists = random_lists(rng, "int16", 1000, 4)
    for i in (1, 600, 601):  # empty lists next to the cuts, and a segment without values
        lists[i] = lists[i][:0]
    column = lists_column(tmp_path, "ids", lists, "int16", cuts=[0, 1, 1, 600, 602], skip=8)
    for first, count in [(0, 1000), (0, 1), (1, 1), (599, 2), (600, 2), (999, 1), (300, 500)]:
        result = read_slice(
            [first], [count], rows=count, columns=[column], dtype=tf.int32, slots=[4]
        )
        np.testing.assert_array_equal(result, padded(lists[first : first + count], 4))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
@pytest.mark.parametrize("wrong", [-1, 100])
def test_invalid_id_in_a_list_is_reported(tmp_path, dtype, wrong, rng):
    lists = random_lists(rng, dtype, 3000, 3)
    lists[2500] = np.array([5, wrong], dtype)
    column = lists_column(tmp_path, "ids", lists, dtype)
    fixed = write_column(tmp_path / "a.bin", rng.integers(0, 9, (3000, 1)).astype(np.int8))
    message = rf"ids0\.bin: sample 2500, table 7: id {wrong} .*0 to 99"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        read_slice(
            [0], [3000], rows=3000, columns=[fixed, column], dtype=tf.int32, slots=[1, 3],
            check=IdCheck([9, 100, 100, 100], [2, 7, 7, 7]),
        )  # fmt: skip


def test_negative_id_of_a_fixed_column_next_to_lists_is_reported(tmp_path, rng):
    values = rng.integers(0, 9, (300, 2)).astype(np.int8)
    values[200, 1] = EMPTY
    columns = [
        lists_column(tmp_path, "ids", random_lists(rng, "int8", 300, 3), "int8"),
        write_column(tmp_path / "a.bin", values),
    ]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a\.bin: sample 200, table 4: id -1"):
        read_slice(
            [0], [300], rows=300, columns=columns, dtype=tf.int32, slots=[3, 2],
            check=IdCheck([100] * 3 + [9] * 2, [1] * 3 + [4] * 2),
        )  # fmt: skip


# {case: (changes of the boundaries 0, 2, 2, 5, 6, message[, first sample to read])}.
WRONG_BOUNDARIES = {
    "start": ({0: 1}, "sample 0, table 3: offset: expected 0, found 1"),
    "negative": ({1: -1}, "sample 0, table 3: end of its list: expected at least 0, found -1"),
    "negative start": (
        {1: -1}, "sample 1, table 3: offset: expected at least 0, found -1", 1
    ),
    "falls": ({2: 1}, "sample 1, table 3: end of its list: expected at least 2, found 1"),
    "overrun": ({3: 7}, "sample 2, table 3: end of its list: expected at most 6, .*, found 7"),
    "huge": ({4: 2**62}, f"sample 3, table 3: end .* expected at most 6, .*, found {2**62}"),
    "rest": ({4: 5}, "sample 3, table 3: end of its list: expected 6, .*, found 5"),
    "too long": (
        {2: 6, 3: 6}, "sample 1, table 3: ids in its list: expected at most 3, found 4"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_BOUNDARIES)
def test_wrong_boundaries_are_reported(tmp_path, case):
    changes, message, *first = WRONG_BOUNDARIES[case]
    first = first or [0]
    values = np.arange(6, dtype=np.int16)
    lists = [values[0:2], values[2:2], values[2:5], values[5:6]]
    column = lists_column(tmp_path, "ids", lists, "int16")
    boundaries = np.fromfile(tmp_path / "ids0_offsets.bin", np.int64)
    for index, value in changes.items():
        boundaries[index] = value
    boundaries.tofile(tmp_path / "ids0_offsets.bin")
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"ids0_offsets\.bin: {message}"):
        read_slice(
            first, [4 - first[0]], rows=4, columns=[column], dtype=tf.int32, slots=[3],
            check=IdCheck([9] * 3, [3] * 3),
        )  # fmt: skip


@pytest.mark.parametrize("name", ["ids0.bin", "ids0_offsets.bin"])
def test_truncated_or_missing_file_of_lists_is_reported(tmp_path, name, rng):
    column = lists_column(tmp_path, "ids", random_lists(rng, "int32", 50, 3), "int32")

    def read():
        @tf.function  # A function has its own kernels, which open the files.
        def step():
            return read_slice([0], [50], rows=50, columns=[column], dtype=tf.int32, slots=[3])

        return step()

    os.truncate(tmp_path / name, os.path.getsize(tmp_path / name) - 1)
    with pytest.raises(tf.errors.DataLossError, match=f"{name}.* truncated"):
        read()
    os.unlink(tmp_path / name)
    with pytest.raises(tf.errors.NotFoundError, match=name):
        read()


def test_sample_beyond_the_last_list_is_an_error(tmp_path, rng):
    column = lists_column(tmp_path, "ids", random_lists(rng, "int8", 10, 3), "int8")
    with pytest.raises(tf.errors.DataLossError, match=r"ids0_offsets\.bin: 1 samples"):
        read_slice([9], [2], rows=2, columns=[column], dtype=tf.int32, slots=[3])


@pytest.mark.parametrize("tables", [1, 9])
def test_file_of_several_columns_is_opened_once(tmp_path, tables, rng):
    # Every column has two segments; those of even tables are lists, with boundaries in the file.
    path, data, columns, expected = tmp_path / "all.bin", b"", [], []
    for table in range(tables):
        lists = random_lists(rng, "int16", 60, 3)
        ids = random_values(rng, "int16", (60, 2))
        segments, boundaries = [], []
        for rows in (slice(0, 25), slice(25, 60)):
            if table % 2:
                segments.append(Segment(str(path), len(data), len(ids[rows])))
                data += ids[rows].tobytes()
                continue
            values = np.concatenate([np.empty(0, np.int16), *lists[rows]])
            segments.append(Segment(str(path), len(data), len(values)))
            data += values.tobytes()
            boundaries.append(Segment(str(path), len(data), len(lists[rows])))
            data += np.cumsum([0, *map(len, lists[rows])], dtype=np.int64).tobytes()
        columns.append(Column(segments, "int16", 1 if boundaries else 2, 2 * (2 - bool(boundaries)),
                              tuple(boundaries)))  # fmt: skip
        expected.append(padded(lists, 3) if boundaries else ids)
    path.write_bytes(data)
    slots = [part.shape[1] for part in expected]

    @tf.function
    def read():
        return read_slice([1], [58], rows=58, columns=columns, dtype=tf.int32, slots=slots)

    np.testing.assert_array_equal(read(), np.hstack(expected)[1:59])
    opened = [entry for entry in Path("/proc/self/fd").iterdir() if is_open_at(entry, path)]
    assert len(opened) == 1


def is_open_at(descriptor, path):
    try:
        return os.readlink(descriptor) == str(path)
    except FileNotFoundError:  # The descriptor that listed the folder.
        return False
