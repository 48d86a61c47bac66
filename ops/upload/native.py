"""Python wrappers of `Dlrm>UploadBatch` and `Dlrm>ReceiveBatch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ops import loader

#: Types that a part may have.
DTYPES = (
    tf.float32, tf.float16, tf.bfloat16, tf.bool, tf.uint8, tf.int8, tf.int16, tf.int32, tf.int64,
)  # fmt: skip


def upload(parts: Sequence[Any], name: str | None = None) -> tuple[tf.Tensor, tf.Tensor]:
    """Packs the tensors of a batch into one buffer in the device's memory.

    On a GPU the parts are copied to pinned memory, and from there to the GPU by one asynchronous
    copy on a stream of its own. No kernel waits for it before `receive` is called. On a CPU the
    package is a copy of the parts in memory.

    The package may be a result of one `tf.function` and an argument of another. Pass it only to
    `receive`: no other op waits for the upload.

    Args:
        parts: at least one tensor of any shape and of a type in `DTYPES`, in host memory.
        name: of the op.

    Returns:
        (package, dims) for `receive`: uint8 [bytes] in the device's memory, and int32, in host
        memory, the dimensions of all parts, one part after another.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: a type is not supported.
        ValueError: there is no part.
    """
    tensors = [tf.convert_to_tensor(part) for part in parts]
    if not tensors:
        raise ValueError("upload: expected at least one part, found none")
    for p, tensor in enumerate(tensors):
        _check_dtype("upload", p, tensor.dtype)
    result = loader.load().dlrm_upload_batch(parts=tensors, name=name)
    return result.package, result.dims


def receive(
    package: tf.Tensor,
    dims: tf.Tensor,
    dtypes: Sequence[Any],
    shapes: Sequence[Any],
    name: str | None = None,
) -> list[tf.Tensor]:
    """Returns the parts of a package in the device's memory, without a copy.

    On a GPU the kernels after this op, and only those, wait for the upload. int32 parts are in the
    GPU's memory, too. Their memory is used for another batch when neither the package nor a part is
    in use any more.

    Args:
        package: from `upload` on the same device; not a copy of it.
        dims: from the same `upload`.
        dtypes: types of the parts. They are not part of the package: the caller must name the same
            ones as in `upload`.
        shapes: shapes of the parts. Dimensions may be None, but each rank is known.
        name: of the op.

    Returns:
        The parts, in the order of `upload`, with the static shapes `shapes`.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        TypeError: a type is not supported.
        ValueError: in a graph or before the op runs: there are no dtypes, or not as many shapes, or
            a rank is unknown.
        tf.errors.InvalidArgumentError: a part does not have its shape (the message contains part,
            expected and found shape), the bytes do not match, or, on a GPU, `package` is not a
            live package of this device.
    """
    types = [tf.as_dtype(dtype) for dtype in dtypes]
    partial = [tf.TensorShape(shape) for shape in shapes]
    if not types or len(types) != len(partial):
        raise ValueError(
            f"receive: expected as many dtypes as shapes and at least one, found {len(types)} "
            f"dtypes and {len(partial)} shapes"
        )
    for p, (dtype, shape) in enumerate(zip(types, partial)):
        _check_dtype("receive", p, dtype)
        if shape.rank is None:
            raise ValueError(f"receive: part {p}: expected a shape of known rank, found {shape}")
    return loader.load().dlrm_receive_batch(
        package=package, dims=dims, dtypes=types, shapes=partial, name=name
    )


def _check_dtype(function: str, part: int, dtype: tf.DType) -> None:
    if dtype not in DTYPES:
        raise TypeError(
            f"{function}: part {part}: expected one of {', '.join(d.name for d in DTYPES)}; found "
            f"{dtype.name}"
        )
