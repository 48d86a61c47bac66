"""`upload` and `receive` on the CPU: every bit of every part, and the messages of bad inputs."""

import re

import numpy as np
import pytest
import tensorflow as tf

from ops.upload import receive, upload
from ops.upload.native import DTYPES

# Bytes of the boundaries at which parts begin.
ALIGNMENT = 256
INTEGER_OF_SIZE = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def random_shape(rng):
    """Returns a shape of rank 0 to 4, sometimes empty, with odd numbers of elements."""
    low = 0 if rng.random() < 0.2 else 1
    return tuple(int(n) for n in rng.integers(low, 12, rng.integers(0, 5)))


def random_part(rng, dtype, shape):
    """Returns a tensor of random bits, NaNs included."""
    if dtype == tf.bool:
        return tf.constant(rng.random(shape) < 0.5)
    unsigned = INTEGER_OF_SIZE[dtype.size]
    bits = rng.integers(0, np.iinfo(unsigned).max, shape, unsigned, endpoint=True)
    return tf.bitcast(tf.constant(bits), dtype)


def random_parts(rng, count):
    """Returns a list of parts of random types and shapes."""
    return [
        random_part(rng, DTYPES[rng.integers(len(DTYPES))], random_shape(rng)) for _ in range(count)
    ]


def bits(tensor):
    """Returns the shape and the bytes of a tensor."""
    return tensor.shape.as_list(), tensor.numpy().tobytes()


def assert_same_parts(found, expected):
    assert [part.dtype for part in found] == [part.dtype for part in expected]
    assert [bits(part) for part in found] == [bits(part) for part in expected]


def describe(parts):
    """Returns (dtypes, shapes) for `receive`."""
    return [part.dtype for part in parts], [part.shape for part in parts]


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_receive_returns_the_bits_that_were_uploaded(count, rng):
    parts = random_parts(rng, count)
    package, dims = upload(parts)
    assert_same_parts(receive(package, dims, *describe(parts)), parts)


def test_package_has_the_parts_at_aligned_offsets_and_zeros_between(rng):
    parts = [random_part(rng, tf.int64, (33,)), random_part(rng, tf.uint8, (0, 3)),
             random_part(rng, tf.bool, (257,)), random_part(rng, tf.float16, ())]  # fmt: skip
    package, dims = upload(parts)
    expected = b""
    for part in parts:
        expected += bits(part)[1]
        expected += bytes(-len(expected) % ALIGNMENT)
    assert package.numpy().tobytes() == expected
    np.testing.assert_array_equal(dims.numpy(), [33, 0, 3, 257])


def test_parts_larger_than_a_chunk_are_packed_by_several_threads(rng):
    parts = [random_part(rng, tf.float32, (int(rng.integers(1, 400_000)),)) for _ in range(4)]
    package, dims = upload(parts)
    assert_same_parts(receive(package, dims, *describe(parts)), parts)


def test_parts_share_the_memory_of_the_package(rng):
    part = random_part(rng, tf.int32, (100,))
    package, dims = upload([part, part])
    received = receive(package, dims, *describe([part, part]))
    base = np.asarray(memoryview(package)).ctypes.data
    offsets = [np.asarray(memoryview(one)).ctypes.data - base for one in received]
    assert offsets == [0, 2 * ALIGNMENT]
    del package
    assert_same_parts(received, [part, part])


def test_empty_parts_alone_make_a_package(rng):
    parts = [tf.zeros((0, 5), tf.float32), tf.zeros((3, 0), tf.int64)]
    package, dims = upload(parts)
    assert package.shape == (ALIGNMENT,)
    assert_same_parts(receive(package, dims, *describe(parts)), parts)


def test_a_package_is_a_result_of_one_function_and_an_argument_of_the_next(rng):
    """As in training: step s computes with batch s and uploads batch s + 1."""

    @tf.function(reduce_retracing=True)
    def first(label, ids):
        return upload([label, ids])

    @tf.function(reduce_retracing=True)
    def step(package, dims, label, ids):
        received = receive(package, dims, [tf.float32, tf.int32], [(None, 1), (None, 26)])
        assert received[0].shape.as_list() == [None, 1]
        assert received[1].shape.as_list() == [None, 26]
        return received, upload([label, ids])

    sizes = rng.integers(0, 500, 6)
    batches = [[random_part(rng, tf.float32, (n, 1)), random_part(rng, tf.int32, (n, 26))]
               for n in sizes]  # fmt: skip
    package = first(*batches[0])
    for batch, following in zip(batches, batches[1:]):
        received, package = step(*package, *following)
        assert_same_parts(received, batch)
    assert step.experimental_get_tracing_count() <= 3


def test_equal_uploads_are_not_merged_and_shapes_are_inferred(rng):
    @tf.function
    def twice(part):
        (one, dims), (two, _) = upload([part]), upload([part])
        assert one.shape.as_list() == [None] and dims.shape.as_list() == [2]
        return one, two

    one, two = twice(random_part(rng, tf.float32, (3, 4)))
    assert np.asarray(memoryview(one)).ctypes.data != np.asarray(memoryview(two)).ctypes.data


def test_receive_rejects_a_part_of_another_shape(rng):
    parts = [random_part(rng, tf.float32, (4,)), random_part(rng, tf.int32, (4, 26))]
    package, dims = upload(parts)
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"ReceiveBatch: part 1: expected shape \[\?,13\], found \[4,26\]",
    ):
        receive(package, dims, [tf.float32, tf.int32], [(None,), (None, 13)])


def test_receive_rejects_dims_of_another_batch(rng):
    part = random_part(rng, tf.float32, (1000,))
    package, dims = upload([part])
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"a package of 8192 bytes .* found 4096"
    ):
        receive(package, dims * 2, [tf.float32], [(None,)])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a package of 8192 .* found 4096"):
        receive(package, dims, [tf.int64], [(None,)])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"-1000"):
        receive(package, -dims, [tf.float32], [(None,)])

    @tf.function
    def without_static_shapes(package, dims):
        return receive(package, dims, [tf.float32], [(None, None)])

    unknown = [tf.TensorSpec(None, tf.uint8), tf.TensorSpec(None, tf.int32)]
    compiled = without_static_shapes.get_concrete_function(*unknown)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"dims \[2\], found .*\[1\]"):
        compiled(package, dims)


@pytest.mark.parametrize(
    ("dtypes", "shapes", "error", "message"),
    [
        ([tf.float32], [(1,), (2,)], ValueError, "found 1 dtypes and 2 shapes"),
        ([], [], ValueError, "found 0 dtypes"),
        ([tf.float32], [None], ValueError, "part 0: expected a shape of known rank"),
        ([tf.float32, tf.string], [(), ()], TypeError, "part 1: .*; found string"),
    ],
)
def test_receive_rejects_bad_descriptions(dtypes, shapes, error, message):
    with pytest.raises(error, match=message):
        receive(*upload([tf.zeros(3)]), dtypes, shapes)


def test_upload_rejects_unsupported_types_and_no_parts():
    with pytest.raises(TypeError, match=re.escape("upload: part 1: ") + ".*found string"):
        upload([tf.zeros(3), tf.constant("text")])
    with pytest.raises(ValueError, match="found none"):
        upload([])
