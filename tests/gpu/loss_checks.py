"""Checks of the last layer with the log loss, and of the check for finite numbers."""

import ctypes
import functools

import numpy as np

from tests.gpu import reference
from tests.gpu.embedding_checks import require_equal
from tests.gpu.interaction_checks import ACCUMULATION, MismatchError, require_within, run_all
from tests.gpu.launchers import (
    BFLOAT16,
    DTYPE_NAMES,
    ELEMENT_BYTES,
    FLOAT16,
    FLOAT32,
    LogLoss,
    int64_array,
    pointer_array,
)

_DTYPES = (FLOAT32, FLOAT16, BFLOAT16)


class LossProblem:
    """A random batch on the device, with copies on the host.

    Args:
        library: the launchers.
        memory: where buffers are allocated.
        rng: random generator.
        batch: B.
        width: n.
        dtype: of hidden, as in `launchers`.
        relu: whether hidden is the result of a ReLU.
        spread: standard deviation of the logits.
        offset: elements by which hidden and its gradient are misaligned.
    """

    def __init__(self, library, memory, rng, batch, width, dtype, relu, spread=2.0, offset=0):
        self.library, self.memory = library, memory
        self.batch, self.width, self.dtype, self.relu = batch, width, dtype, relu
        self._offset = offset * ELEMENT_BYTES[dtype]
        # Also without a ReLU's zeros: the kernel must mask elements that are not positive.
        hidden = rng.standard_normal((batch, width)) * (rng.random((batch, width)) < 0.8)
        self.hidden = reference.to_storage(hidden, dtype)
        self.kernel = (rng.standard_normal(width) * spread / width**0.5).astype(np.float32)
        self.bias = rng.standard_normal(1).astype(np.float32)
        labels = rng.random(batch) < 0.4
        soft = rng.random(batch)
        self.label = np.where(rng.random(batch) < 0.2, soft, labels).astype(np.float32)
        self.scale = np.asarray([batch * rng.uniform(0.3, 3.0)], np.float32)

    def run(self):
        """Returns (loss, gradient of hidden as stored, of the kernel, of the bias)."""
        upload, empty = self.memory.upload, self.memory.empty
        inputs = [upload(self.hidden, self._offset)]
        inputs += [upload(array) for array in (self.kernel, self.bias, self.label, self.scale)]
        outputs = [
            empty(1, np.float32), empty(self.hidden.size, self.hidden.dtype, self._offset),
            empty(self.width, np.float32), empty(1, np.float32),
        ]  # fmt: skip
        description = LogLoss(
            self.batch, self.width, self.dtype, self.relu,
            *(buffer.pointer for buffer in (*inputs, *outputs)),
        )  # fmt: skip
        size = self.library.bytes_of("log_loss", description)
        workspace = self.memory.empty(size, np.uint8)
        self.library.log_loss(
            ctypes.byref(description), workspace.pointer, size, self.memory.stream
        )
        workspace.download()  # checks its guards; keeps it until the kernels have run
        require_equal("hidden", inputs[0].download(), self.hidden)
        loss, gradient, *rest = (output.download() for output in outputs)
        return loss, gradient.reshape(self.hidden.shape), *rest

    def check(self, found):
        """Compares results with float64; returns the largest error / limit."""
        loss, hidden_gradient, kernel_gradient, bias_gradient = found
        hidden = reference.from_storage(self.hidden, self.dtype)
        kernel, label = self.kernel.astype(np.float64), self.label.astype(np.float64)
        logit = hidden @ kernel + float(self.bias[0])
        of_logit = ACCUMULATION * (np.abs(hidden) @ np.abs(kernel) + abs(float(self.bias[0])))
        losses = np.logaddexp(0, logit) - logit * label
        probability = np.exp(-np.logaddexp(0, -logit))
        factor = float(self.scale[0]) / self.batch
        upstream = factor * (probability - label)
        of_upstream = factor * (0.25 * of_logit + 2.0**-22)
        worst = require_within(
            "loss", loss[0], losses.mean(),
            (of_logit + ACCUMULATION * (losses + np.abs(logit))).mean() + 2.0**-24,
        )  # fmt: skip
        expected = upstream[:, None] * kernel * ((hidden > 0) if self.relu else 1.0)
        worst = max(worst, require_within(
            "hidden gradient", reference.from_storage(hidden_gradient, self.dtype), expected,
            of_upstream[:, None] * np.abs(kernel)
            + 1.01 * reference.ROUNDING[self.dtype] * np.abs(expected) + 2.0**-24,
        ))  # fmt: skip
        terms = np.abs(hidden).T
        worst = max(worst, require_within(
            "kernel gradient", kernel_gradient, upstream @ hidden,
            terms @ (of_upstream + ACCUMULATION * np.abs(upstream)) + 2.0**-24,
        ))  # fmt: skip
        return max(worst, require_within(
            "bias gradient", bias_gradient[0], upstream.sum(),
            (of_upstream + ACCUMULATION * np.abs(upstream)).sum() + 2.0**-24,
        ))  # fmt: skip


def run_loss(library, memory, rng, dtype, batch, width, relu, spread, offset):
    """Two runs equal each other bit for bit, and float64 within rounding."""
    problem = LossProblem(library, memory, rng, batch, width, dtype, relu, spread, offset)
    found = problem.run()
    for name, first, second in zip(("loss", "hidden", "kernel", "bias"), found, problem.run()):
        require_equal(f"{name} of a second run", second, first)
    return problem.check(found)


def run_nan(library, memory, rng, dtype, batch, width):
    """NaN in hidden gives a NaN loss, and does not reach the gradients of other rows."""
    for relu in (False, True):
        problem = LossProblem(library, memory, rng, batch, width, dtype, relu)
        row, column = int(rng.integers(batch)), int(rng.integers(width))
        problem.hidden[row, column] = reference.to_storage(np.nan, dtype)
        loss, hidden, kernel, bias = problem.run()
        others = np.delete(reference.from_storage(hidden, dtype), row, 0)
        if not (np.isnan(loss).all() and np.isnan(kernel).all() and np.isnan(bias).all()):
            raise MismatchError(f"NaN at {row, column}: expected NaN, found loss {loss[0]}")
        if not np.isfinite(others).all():
            raise MismatchError(f"NaN at {row, column}: other rows have gradients that are NaN")
    return 0.0


def loss_cases(large):
    """Returns [(B, n, relu, spread of the logits, offset)]."""
    listed = [
        (1, 1, False, 2.0, 0), (1, 256, True, 2.0, 0), (2, 7, True, 2.0, 0), (33, 64, True, 2.0, 0),
        (31, 256, False, 2.0, 1), (65, 255, True, 60.0, 0), (40, 264, True, 2.0, 0),
        (37, 512, False, 60.0, 0), (35, 520, True, 2.0, 0), (17, 1024, True, 2.0, 0),
        (9, 1023, False, 2.0, 0), (5, 1024, True, 2.0, 1), (300, 16, True, 2.0, 0),
    ]  # fmt: skip
    if large:
        listed += [(9001, width, True, 2.0, 0) for width in (64, 255, 512, 1024)]
        listed += [(65_536, 256, True, 2.0, 0), (65_537, 256, False, 60.0, 1)]
    return listed


def run_finite(library, memory, rng, dtype, sizes, offset):
    """Finite tensors, then one special element at the start, end or inside of each in turn."""
    largest = {FLOAT32: 3.4e38, FLOAT16: 65504.0, BFLOAT16: 3.38e38}[dtype]
    arrays = []
    for size in sizes:
        values = rng.choice([-largest, 1e-7, 0.0, 1.0, largest], size)
        arrays.append(reference.to_storage(values, dtype))
    shift = offset * ELEMENT_BYTES[dtype]

    def check(expected, what):
        buffers = [memory.upload(array, shift) for array in arrays]
        finite = memory.upload(np.asarray([7], np.uint8))
        library.all_finite(
            pointer_array(buffers), int64_array(sizes), len(sizes),
            dtype, finite.pointer, memory.stream,
        )  # fmt: skip
        found = int(finite.download()[0])
        if found != expected:
            raise MismatchError(f"{what}: expected {expected}, found {found}")

    check(1, "finite tensors")
    for t, array in enumerate(arrays):
        if array.size == 0:
            continue
        for place in {0, array.size - 1, int(rng.integers(array.size))}:
            kept = array[place]
            value = rng.choice([np.nan, np.inf, -np.inf])
            array[place] = reference.to_storage(value, dtype)
            check(0, f"{value} at element {place} of tensor {t}")
            array[place] = kept
    return 0.0


def finite_cases(large):
    """Returns [(sizes, offset)]."""
    listed = [((1,), 0), ((0, 5, 8191, 0), 0), ((8192, 3, 16), 1), ((20_001,), 3), ((), 0),
              ((17,) * 64, 1)]  # fmt: skip
    return listed + [((8192 * 26 * 128, 479 * 1024), 0)] * large


def checks(library, memory, large):
    """Yields (name, function of a random generator that returns (cases, largest error / limit))."""
    groups = {
        "log loss": (run_loss, loss_cases(large)),
        "log loss NaN": (run_nan, [(1, 5), (70, 256), (40, 1000)]),
        "all finite": (run_finite, finite_cases(large)),
    }
    for name, (run, listed) in groups.items():
        for dtype in _DTYPES:
            yield (
                f"{name} {DTYPE_NAMES[dtype]}",
                lambda rng, run=run, dtype=dtype, listed=listed: run_all(
                    functools.partial(run, library, memory, rng, dtype), listed
                ),
            )
