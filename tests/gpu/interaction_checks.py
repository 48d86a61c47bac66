"""Checks of the dot interaction, forward and backward, against float64 scalar products."""

import ctypes

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


def worst_ratio(found, expected, magnitude, dtype, accumulation):
    """Returns the largest error / limit; infinite if an element is not finite."""
    limit = (
        reference.ROUNDING[dtype] * 1.01 * np.abs(expected) + accumulation * magnitude + 2.0**-24
    )
    with np.errstate(invalid="ignore"):
        ratio = np.abs(found - expected) / limit
    return float(np.where(np.isfinite(ratio), ratio, np.inf).max(initial=0.0))


def run_case(library, memory, rng, batch, features, dim, dtype, split=False, offset=0):
    """Runs both directions once on random inputs; returns (forward, backward) error / limit.

    Args:
        library: the launchers.
        memory: where buffers are allocated.
        rng: random generator.
        batch: B.
        features: F.
        dim: D.
        dtype: element type, as in `launchers`.
        split: pass row 0 and the other rows in two tensors.
        offset: bytes by which all buffers are misaligned.
    """
    shape = InteractionShape(batch, features, dim, dtype)
    width = library.width(features, dim)
    stored = reference.to_storage(rng.standard_normal((batch, features, dim)), dtype)
    upstream = reference.to_storage(rng.standard_normal((batch, width)), dtype)
    pairs = features * (features - 1) // 2
    # The kernels must not read the padding's gradient.
    upstream[:, dim + pairs :] = reference.to_storage(np.nan, dtype)
    size = ELEMENT_BYTES[dtype]

    def place(array):
        if not split:
            buffer = memory.upload(array, offset)
            return [buffer], FeatureRows(
                buffer.pointer, buffer.at(dim), features * dim, features * dim
            )
        bottom = memory.upload(np.ascontiguousarray(array[:, 0]), offset)
        vectors = memory.upload(np.ascontiguousarray(array[:, 1:]), offset)
        return [bottom, vectors], FeatureRows(
            bottom.pointer, vectors.pointer, dim, (features - 1) * dim
        )

    inputs, input_places = place(stored)
    output = memory.empty(batch * width, stored.dtype, offset)
    library.dot_interaction_forward(
        ctypes.byref(shape), input_places, output.pointer, memory.stream
    )
    found = reference.from_storage(output.download().reshape(batch, width), dtype)
    values = reference.from_storage(stored, dtype)
    expected, magnitude = reference.interaction(values)
    forward = worst_ratio(found, expected, magnitude, dtype, ACCUMULATION)

    gradient = memory.upload(upstream, offset)
    poison = np.full(batch * features * dim * size, 0xFF, np.uint8).view(stored.dtype)
    outputs, output_places = place(poison.reshape(batch, features, dim))
    library.dot_interaction_backward(
        ctypes.byref(shape), input_places, gradient.pointer, output_places, memory.stream
    )
    downloaded = [buffer.download() for buffer in outputs]
    found = downloaded[0] if not split else np.concatenate(
        [downloaded[0][:, None], downloaded[1]], axis=1
    )  # fmt: skip
    clean = reference.from_storage(upstream, dtype)
    clean[:, dim + pairs :] = 0
    expected, magnitude = reference.interaction_gradient(values, clean)
    backward = worst_ratio(
        reference.from_storage(found, dtype), expected, magnitude, dtype, ACCUMULATION
    )
    for buffer, array in zip(inputs, [stored] if not split else [stored[:, 0], stored[:, 1:]]):
        if not np.array_equal(buffer.download(), array):
            raise MismatchError("the kernel changed its input")
    return forward, backward


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
        def run(rng):
            worst, wrong = 0.0, []
            listed = shapes(large)
            for batch, features, dim in listed:
                if split and features == 1:
                    continue  # an empty tensor of vectors has no address
                case = run_case(library, memory, rng, batch, features, dim, dtype, split, offset)
                if max(case) > 1.0:
                    wrong.append(f"B={batch} F={features} D={dim}: error over limit "
                                 f"{case[0]:.3g} forward, {case[1]:.3g} backward")  # fmt: skip
                worst = max(worst, *case)
            if wrong:
                raise MismatchError(f"{len(wrong)} of {len(listed)} cases: {'; '.join(wrong[:5])}")
            return len(listed), worst

        return run

    for dtype in (FLOAT32, FLOAT16, BFLOAT16):
        yield f"dot interaction {DTYPE_NAMES[dtype]}", group(dtype, False, 0)
        yield f"dot interaction {DTYPE_NAMES[dtype]} two inputs", group(dtype, True, 0)
        # Rows that are not 16-byte aligned take the kernel for any shape.
        odd = ELEMENT_BYTES[dtype]
        name = f"dot interaction {DTYPE_NAMES[dtype]} unaligned"
        yield name, group(dtype, False, odd)
