"""Checks of the dot interaction, forward and backward, against float64 scalar products."""

import ctypes
import functools
import reprlib

import numpy as np

from tests.gpu import reference
from tests.gpu.launchers import (
    BFLOAT16,
    DTYPE_NAMES,
    ELEMENT_BYTES,
    FLOAT16,
    FLOAT32,
    FeatureRows,
    InteractionShape,
)

# Error of a float32 sum of products, relative to the sum of their magnitudes.
ACCUMULATION = 2.0**-20


class MismatchError(AssertionError):
    """A kernel's result differs from the reference."""


def require_within(what, found, expected, limit):
    """Returns the largest error / limit; raises MismatchError if it exceeds 1 or is not finite."""
    with np.errstate(invalid="ignore"):
        ratio = np.abs(found - expected) / limit
    worst = float(np.where(np.isfinite(ratio), ratio, np.inf).max(initial=0.0))
    if worst > 1:
        raise MismatchError(f"{what}: error {worst:.3g} times its limit")
    return worst


def run_all(run, cases):
    """Calls ``run(*case)`` for every case; returns (cases, largest result).

    Raises:
        MismatchError: some cases failed; names the first ones.
    """
    worst, wrong = 0.0, []
    for case in cases:
        try:
            worst = max(worst, run(*case))
        except AssertionError as error:
            wrong.append(f"{reprlib.repr(case)}: {error}")
    if wrong:
        raise MismatchError(f"{len(wrong)} of {len(cases)} cases: {'; '.join(wrong[:3])}")
    return len(cases), worst


def run_case(library, memory, rng, dtype, split, offset, batch, features, dim):
    """Runs both directions once on random inputs; returns the largest error / limit.

    With `split`, row 0 and the other rows are in two tensors. All buffers are misaligned by
    `offset` bytes.
    """
    shape = InteractionShape(batch, features, dim, dtype)
    width = library.width(features, dim)
    stored = reference.to_storage(rng.standard_normal((batch, features, dim)), dtype)
    upstream = reference.to_storage(rng.standard_normal((batch, width)), dtype)
    pairs = features * (features - 1) // 2
    # The kernels must not read the padding's gradient.
    upstream[:, dim + pairs :] = reference.to_storage(np.nan, dtype)
    size = ELEMENT_BYTES[dtype]

    def parts(array):
        return [array[:, 0], array[:, 1:]] if split else [array]

    def place(array):
        buffers = [memory.upload(part, offset) for part in parts(array)]
        if split:
            return buffers, FeatureRows(
                buffers[0].pointer, buffers[1].pointer, dim, (features - 1) * dim
            )
        return buffers, FeatureRows.of_one_tensor(buffers[0].pointer, features, dim, size)

    def require_close(what, found, expected, magnitude):
        rounding = reference.ROUNDING[dtype] * 1.01 * np.abs(expected)
        limit = rounding + ACCUMULATION * magnitude + 2.0**-24
        return require_within(what, reference.from_storage(found, dtype), expected, limit)

    inputs, input_places = place(stored)
    output = memory.empty(batch * width, stored.dtype, offset)
    library.dot_interaction_forward(
        ctypes.byref(shape), input_places, output.pointer, memory.stream
    )
    found = output.download().reshape(batch, width)
    values = reference.from_storage(stored, dtype)
    worst = require_close("forward", found, *reference.interaction(values))

    gradient = memory.upload(upstream, offset)
    poison = np.full(batch * features * dim * size, 0xFF, np.uint8).view(stored.dtype)
    outputs, output_places = place(poison.reshape(batch, features, dim))
    library.dot_interaction_backward(
        ctypes.byref(shape), input_places, gradient.pointer, output_places, memory.stream
    )
    clean = reference.from_storage(upstream, dtype)
    clean[:, dim + pairs :] = 0
    expected = map(parts, reference.interaction_gradient(values, clean))
    for buffer, *limits in zip(outputs, *expected):
        worst = max(worst, require_close("backward", buffer.download(), *limits))
    for buffer, array in zip(inputs, parts(stored)):
        if not np.array_equal(buffer.download(), array):
            raise MismatchError("the kernel changed its input")
    return worst


def shapes(large):
    """Returns [(B, F, D)] to check; the emulation takes the first ones, with a small B."""
    listed = [
        (0, 27, 128), (1, 27, 128), (13, 27, 128), (14, 1, 8), (7, 2, 16), (5, 16, 64),
        (9, 17, 128), (6, 27, 16), (3, 31, 256), (2, 32, 136), (5, 8, 40), (4, 27, 24),
        (3, 33, 64), (2, 64, 36), (3, 5, 7), (2, 27, 127), (3, 1, 1), (4, 3, 257), (3, 26, 4),
    ]  # fmt: skip
    if large:
        listed += [
            (b, f, d)
            for b in (1, 61)
            for f in (1, 2, 13, 27, 31, 32, 33, 64)
            for d in (1, 4, 16, 127, 128, 256)
        ]
        listed += [(b, f, 128) for b in (3, 255) for f in (27, 33)]
        # More samples than resident warps: every warp takes several.
        listed += [(4099, 27, 128), (4099, 13, 64), (2051, 31, 256), (2051, 64, 8)]
    return listed


def checks(library, memory, large):
    """Yields (name, function of a random generator that returns (cases, largest error / limit))."""

    def group(dtype, split, offset):
        # An empty tensor of vectors has no address.
        listed = [shape for shape in shapes(large) if not split or shape[1] > 1]
        return lambda rng: run_all(
            functools.partial(run_case, library, memory, rng, dtype, split, offset), listed
        )

    for dtype in (FLOAT32, FLOAT16, BFLOAT16):
        name = f"dot interaction {DTYPE_NAMES[dtype]}"
        yield name, group(dtype, False, 0)
        yield f"{name} two inputs", group(dtype, True, 0)
        # Rows that are not 16-byte aligned take the kernel for any shape.
        yield f"{name} unaligned", group(dtype, False, ELEMENT_BYTES[dtype])
