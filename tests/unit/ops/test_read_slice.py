"""`Dlrm>ReadSlice` compared with NumPy on the same files."""

import os
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from ops.read_slice.read_slice import IdCheck, read_slice


class Segment(NamedTuple):
    path: str
    offset: int
    samples: int


class Column(NamedTuple):
    segments: list
    dtype: str
    width: int
    stride: int
    offsets: tuple = ()


def write_column(path, values, offset=0, gap=0):
    """Writes [n, width] values after `offset` bytes, with `gap` bytes between samples."""
    row = values.dtype.itemsize * values.shape[1]
    data = np.full(offset + len(values) * (row + gap), 0xA5, np.uint8)
    rows = data[offset:].reshape(len(values), row + gap)
    rows[:, :row] = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), row)
    # The last sample ends with its values.
    data[: len(data) - gap].tofile(path)
    segment = Segment(str(path), offset, len(values))
    return Column([segment], values.dtype.name, values.shape[1], row + gap)


def random_values(rng, dtype, shape):
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype == "float16":
        bits = rng.integers(0, 1 << 16, shape, dtype=np.uint16)
        bits[(bits & 0x7C00) == 0x7C00] = 0x0001  # finite, and some subnormal
        return bits.view(np.float16)
    if dtype == "float32":
        return rng.normal(0, 1e3, shape).astype(np.float32)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


STORED = ["bool", "int8", "uint8", "int16", "int32", "float16", "float32"]


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("width", [1, 13])
@pytest.mark.parametrize(
    ("stored", "dtype"),
    [(stored, tf.float32) for stored in STORED]
    + [(stored, tf.int32) for stored in ("int8", "uint8", "int16", "int32")],
)
def test_output_equals_numpy(tmp_path, stored, dtype, width, gap, rng):
    values = random_values(rng, stored, (5000, width))
    column = write_column(tmp_path / "column.bin", values, offset=17, gap=gap)
    result = read_slice([3], [4990], rows=4990, columns=[column], dtype=dtype)
    np.testing.assert_array_equal(result, values[3:4993].astype(dtype.as_numpy_dtype))


@pytest.mark.parametrize("samples", [1, 127, 128, 129, 2047, 2048, 2049, 4500])
def test_columns_of_several_dtypes_are_concatenated(tmp_path, samples, rng):
    parts = [
        random_values(rng, dtype, (samples, width))
        for dtype, width in [("int8", 1), ("int32", 3), ("int16", 1), ("int8", 2)]
    ]
    columns = [write_column(tmp_path / f"{i}.bin", part) for i, part in enumerate(parts)]
    result = read_slice([0], [samples], rows=samples, columns=columns, dtype=tf.int32)
    np.testing.assert_array_equal(result, np.hstack([part.astype(np.int32) for part in parts]))


def test_parts_fill_their_rows_and_pad_with_zero(tmp_path):
    values = np.arange(1, 41, dtype=np.int32).reshape(20, 2)
    column = write_column(tmp_path / "column.bin", values)
    result = read_slice([10, 2, 7], [4, 0, 1], rows=12, columns=[column], dtype=tf.int32)
    expected = np.zeros((12, 2), np.int32)
    expected[0:4], expected[8:9] = values[10:14], values[7:8]
    np.testing.assert_array_equal(result, expected)


def test_segments_form_one_column(tmp_path, rng):
    values = random_values(rng, "int32", (1000, 3))
    cuts = [0, 1, 1, 600, 1000]  # an empty segment among them
    segments = []
    for i, (first, last) in enumerate(zip(cuts, cuts[1:])):
        part = write_column(tmp_path / f"{i}.bin", values[first:last], offset=i)
        segments += part.segments
    column = Column(segments, "int32", 3, 12)
    for first, count in [(0, 1000), (0, 1), (1, 1), (599, 2), (999, 1), (300, 500)]:
        result = read_slice([first], [count], rows=count, columns=[column], dtype=tf.int32)
        np.testing.assert_array_equal(result, values[first : first + count])


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("stored", ["int32", "float32"])
def test_log_is_within_two_units_in_the_last_place(tmp_path, stored, shift, rng):
    values = np.exp(rng.uniform(-8, 21, (4000, 13)))
    values[:10] = np.arange(130).reshape(10, 13)  # the common counts
    values = values.astype(stored)
    column = write_column(tmp_path / "column.bin", values)
    result = read_slice(
        [0], [4000], rows=4000, columns=[column], dtype=tf.float32, check="finite", log_shift=shift
    )
    # The sum is rounded to float32 first; only the logarithm is checked.
    shifted = (values.astype(np.float32) + np.float32(shift)).astype(np.float64)
    exact = np.log(shifted)
    error = np.abs(result.numpy() - exact) / np.spacing(np.abs(exact).astype(np.float32))
    assert error.max() <= 2


def ids_column(tmp_path, values, dtype="int16"):
    return write_column(tmp_path / "ids.bin", np.array(values, dtype))


REJECTED = [
    *[(stored, "binary", 2, "label 2") for stored in ("bool", "int32", "float32")],
    *[
        (stored, "finite", wrong, "")
        for stored in ("float16", "float32")
        for wrong in (np.nan, np.inf, -np.inf)
    ],
    *[("int32", "log", wrong, r"log\(value \+ 1\)") for wrong in (-1, -2, -(2**31))],
    *[("int16", "ids", wrong, f"id {wrong} ") for wrong in (7, 8, -1, -32768, 32767)],
]


@pytest.mark.parametrize(("stored", "check", "wrong", "message"), REJECTED)
def test_value_that_fails_its_check_is_reported(tmp_path, stored, check, wrong, message):
    values = np.ones((3000, 2), np.uint8 if stored == "bool" else stored)
    values[0] = 6 if check == "ids" else 0  # passes
    values[2500, 1] = wrong
    column = write_column(tmp_path / "column.bin", values)._replace(dtype=stored)
    options = {
        "ids": {"check": IdCheck([7, 7])},
        "log": {"check": "finite", "log_shift": 1.0},
    }.get(check, {"check": check})
    dtype = tf.int32 if check == "ids" else tf.float32
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"column.bin: sample 2500, value 1: {message}"
    ):
        read_slice([0], [3000], rows=3000, columns=[column], dtype=dtype, **options)


def test_each_call_reads_its_own_files(rng, tmp_path):
    folder = tmp_path / ("long" * 30)
    for name in ("first", "second"):
        (folder / name).mkdir(parents=True)
        values = rng.integers(100, size=(5, 1), dtype=np.int32)
        column = write_column(folder / name / "column.bin", values)
        read = read_slice([0], [5], rows=5, columns=[column], dtype=tf.int32)
        assert np.array_equal(read, values)


def test_truncated_file_is_reported(tmp_path):
    column = ids_column(tmp_path, np.zeros((10, 1)))
    os.truncate(tmp_path / "ids.bin", 11)
    with pytest.raises(tf.errors.DataLossError, match=r"ids.bin: at byte 8: .*\b12 bytes, found 3"):
        read_slice([4], [6], rows=6, columns=[column], dtype=tf.int32)


def test_missing_file_is_reported(tmp_path):
    column = Column([Segment(str(tmp_path / "none.bin"), 0, 1)], "int8", 1, 1)
    with pytest.raises(tf.errors.NotFoundError, match=r"none.bin: .*No such file"):
        read_slice([0], [1], rows=1, columns=[column], dtype=tf.int32)


@pytest.mark.parametrize("act", ["remove", "replace"])
def test_file_removed_or_replaced_between_reads_is_an_error(tmp_path, act):
    column = ids_column(tmp_path, np.zeros((10, 1)))

    def read(step):
        return read_slice([step], [1], rows=1, columns=[column], dtype=tf.int32)

    # Long enough that tf.data cannot prefetch to the end.
    iterator = iter(tf.data.Dataset.range(10).repeat(1000).map(read))
    next(iterator)
    if act == "remove":
        os.unlink(tmp_path / "ids.bin")
    else:
        (tmp_path / "other.bin").write_bytes(b"\0" * 20)
        os.replace(tmp_path / "other.bin", tmp_path / "ids.bin")
    with pytest.raises(tf.errors.NotFoundError, match=r"ids\.bin"):
        for _ in iterator:
            pass


def test_sample_beyond_the_last_is_an_error(tmp_path):
    column = ids_column(tmp_path, np.zeros((10, 1)))
    with pytest.raises(tf.errors.DataLossError, match=r"ids\.bin: 1 samples"):
        read_slice([9], [2], rows=2, columns=[column], dtype=tf.int32)


def test_count_larger_than_the_part_is_an_error(tmp_path):
    column = ids_column(tmp_path, np.zeros((10, 1)))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"0 to 2, .*3"):
        read_slice([0], [3], rows=2, columns=[column], dtype=tf.int32)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (os.mkfifo, "a named pipe"),
        (os.mkdir, "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a character device"),
    ],
)
def test_only_regular_files_are_read(tmp_path, make, found):
    make(tmp_path / "column.bin")
    column = Column([Segment(str(tmp_path / "column.bin"), 0, 10)], "int32", 1, 4)

    # A function has its own kernels; eager kernels come from a process-wide cache.
    @tf.function
    def read():
        return read_slice([0], [10], rows=10, columns=[column], dtype=tf.int32)

    with pytest.raises(tf.errors.DataLossError, match=f"column.bin: is {found}"):
        read()
