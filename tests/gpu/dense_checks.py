"""Checks of the update of the dense variables, and of the record of the loss."""

import ctypes
import functools

import numpy as np

from tests.gpu.embedding_checks import require_equal
from tests.gpu.interaction_checks import MismatchError, require_within, run_all
from tests.gpu.launchers import (
    DENSE_HYPERPARAMETERS,
    DENSE_OPTIMIZERS,
    DenseUpdate,
    LossRecord,
    int64_array,
    pointer_array,
)

STATES = {"sgd": 0, "adagrad": 1, "adam": 2}
# Of MLPerf's model: bottom MLP 13-512-256-128, top MLP 479-1024-1024-512-256-1.
_WIDTHS = ((13, 512, 256, 128), (479, 1024, 1024, 512, 256, 1))
MLPERF_SIZES = tuple(
    size for widths in _WIDTHS for n, m in zip(widths, widths[1:]) for size in (n * m, m)
)


class UpdateProblem:
    """Random variables with equal states on the device.

    Args:
        library: the launchers.
        memory: where buffers are allocated.
        rng: random generator.
        optimizer: name.
        sizes: elements of each variable.
        offset: bytes by which variables, states and pieces are misaligned.
        hyperparameters: of the kernel, default: the optimizer's.
        initial: value of all states.
    """

    def __init__(self, library, memory, rng, optimizer, sizes, offset=0, hyperparameters=None,
                 initial=0.0):  # fmt: skip
        #: Values of the kernel's hyper-parameters.
        self.hyperparameters = tuple(hyperparameters or DENSE_HYPERPARAMETERS[optimizer])
        self.library, self.memory, self.optimizer = library, memory, optimizer
        self.sizes, self._offset = list(sizes), offset
        weights = [rng.standard_normal(size).astype(np.float32) for size in sizes]
        self.variables = [memory.upload(weight, offset) for weight in weights]
        self.states = [
            memory.upload(np.full(size, initial, np.float32), offset)
            for size in sizes for _ in range(STATES[optimizer])
        ]  # fmt: skip
        self.iteration = memory.upload(np.zeros(1, np.int64))

    def update(self, pieces, rate, scale, finite=True):
        """Runs an update with gradients in pieces; returns whether the weights are finite."""
        uploaded = [self.memory.upload(piece, self._offset) for piece in pieces]
        scalars = [self.memory.upload(np.asarray([value], np.float32)) for value in (rate, scale)]
        flag = self.memory.upload(np.asarray([finite], np.uint8))
        result = self.memory.upload(np.asarray([7], np.uint8))
        description = DenseUpdate(
            DENSE_OPTIMIZERS.index(self.optimizer), len(self.sizes), len(pieces),
            self.hyperparameters,
            pointer_array(self.variables),
            pointer_array(self.states), int64_array(self.sizes),
            pointer_array(uploaded),
            int64_array([len(piece) for piece in pieces]), self.iteration.pointer,
            *(buffer.pointer for buffer in (*scalars, flag, result)),
        )  # fmt: skip
        size = self.library.bytes_of("dense_update", description)
        workspace = self.memory.empty(size, np.uint8)
        self.library.dense_update(
            ctypes.byref(description), workspace.pointer, size, self.memory.stream
        )
        workspace.download()  # checks its guards; keeps it until the kernels have run
        found = int(result.download()[0])
        if found not in (0, 1):
            raise MismatchError(f"weights_finite: expected 0 or 1, found {found}")
        return bool(found)

    def values(self):
        """Returns (variables, states, iteration) on the host; variables and states are flat."""

        def joined(buffers):
            arrays = [buffer.download() for buffer in buffers]
            return np.concatenate(arrays) if arrays else np.zeros(0, np.float32)

        states = [joined(self.states[s :: STATES[self.optimizer]])
                  for s in range(STATES[self.optimizer])]  # fmt: skip
        return joined(self.variables), states, int(self.iteration.download()[0])


def random_hyperparameters(rng, optimizer):
    """Returns values of the kernel's hyper-parameters that change results."""
    epsilon = float(10.0 ** rng.uniform(-8, -1))
    if optimizer == "adam":
        return (*(float(beta) for beta in rng.uniform(0.5, 0.999, 2)), epsilon)
    return (epsilon,) * (optimizer == "adagrad")


def in_float32(optimizer, weights, states, gradients, rate, hyperparameters):
    """Returns (weights, states) after SGD or Adagrad in float32, in the documented order."""
    rate = np.float32(rate)
    if optimizer == "sgd":
        return weights - gradients * rate, []
    accumulated = states[0] + gradients * gradients
    root = np.sqrt(accumulated) + np.float32(hyperparameters[0])
    return weights - rate * gradients / root, [accumulated]


def check_step(optimizer, before, after, gradients, rate, hyperparameters):
    """Compares a step with float64; returns the largest error / limit.

    Args:
        optimizer: name.
        before: (weights, states, number of updates) before the step.
        after: the same after it.
        gradients: float64, divided by the loss scale.
        rate: learning rate.
        hyperparameters: of the kernel.
    """
    weights, states, updates = before[0].astype(np.float64), before[1], before[2]
    states, rate, unit = [state.astype(np.float64) for state in states], float(rate), 2.0**-22
    if optimizer == "sgd":
        change, of_change = rate * gradients, 0.0
        expected_states, limits = [], []
    elif optimizer == "adagrad":
        expected_states = [states[0] + gradients**2]
        limits = [unit * expected_states[0]]
        root = np.sqrt(expected_states[0]) + float(np.float32(hyperparameters[0]))
        change, of_change = rate * gradients / root, 0.0
    else:
        betas, epsilon = [np.float32(b) for b in hyperparameters[:2]], hyperparameters[2]
        # These differences are rounded to float32: 1 - 0.999 has an error of 7 in a million.
        decays = [float(np.float32(1) - beta) for beta in betas]
        powers = [np.float32(float(beta) ** (updates + 1)) for beta in betas]
        scales = [float(np.float32(1) - power) for power in powers]
        m = states[0] + (gradients - states[0]) * decays[0]
        v = states[1] + (gradients**2 - states[1]) * decays[1]
        expected_states = [m, v]
        limits = [unit * (np.abs(states[0]) + np.abs(gradients)), unit * (states[1] + gradients**2)]
        factor = rate * np.sqrt(scales[1]) / scales[0] / (np.sqrt(v) + epsilon)
        change, of_change = factor * m, factor * limits[0]
    worst = 0.0
    for s, (found, expected, limit) in enumerate(zip(after[1], expected_states, limits)):
        worst = max(worst, require_within(f"state {s}", found, expected, limit + 1e-37))
    limit = 2.0**-23 * np.abs(weights) + 2 * unit * np.abs(change) + of_change + 1e-37
    return max(worst, require_within("weights", after[0], weights - change, limit))


def random_pieces(rng, sizes, kind):
    """Returns [gradients of a piece]; those that belong to no variable are NaN.

    Args:
        rng: random generator.
        sizes: elements of each variable.
        kind: "one" piece, "each" variable's, or random cuts of which some are empty.
    """
    total, rest = sum(sizes), 0 if kind == "each" else int(rng.integers(1, 9))
    gradients = rng.standard_normal(total) * 10.0 ** rng.uniform(-6, 3, total)
    gradients = np.r_[gradients, np.full(rest, np.nan)].astype(np.float32)
    if kind == "one":
        return [gradients]
    if kind == "each":
        return np.split(gradients, np.cumsum(sizes)[:-1])
    cuts = np.sort(rng.integers(0, len(gradients), min(len(sizes) + 3, 60)))
    return np.split(gradients, [*cuts, cuts[-1]])


def run_update(library, memory, rng, optimizer, sizes, kind, offset):
    """Some steps, one of which is skipped, and one that leaves NaN in the weights.

    Half of the cases have random hyper-parameters and initial states.
    """
    values, initial = None, 0.0
    if rng.random() < 0.5:
        values, initial = random_hyperparameters(rng, optimizer), float(rng.uniform(0, 0.1))
    problem = UpdateProblem(library, memory, rng, optimizer, sizes, offset, values, initial)
    values = problem.hyperparameters
    worst, total = 0.0, sum(sizes)
    for step in range(4):
        rate, scale = np.float32(rng.uniform(0.01, 2.0)), np.float32(rng.uniform(1.0, 3000.0))
        pieces, before = random_pieces(rng, sizes, kind), problem.values()
        if step == 2:
            damaged = [np.where(rng.random(len(p)) < 0.5, np.inf, np.nan) for p in pieces]
            damaged = [piece.astype(np.float32) for piece in damaged]
            if not problem.update(damaged, rate, scale, finite=False):
                raise MismatchError("a skipped step: expected finite weights")
            after = problem.values()
            for found, expected in zip((after[0], *after[1]), (before[0], *before[1])):
                require_equal("a skipped step's variables", found, expected)
            require_updates(after, before[2])
            continue
        if not problem.update(pieces, rate, scale):
            raise MismatchError("expected finite weights")
        after, flat = problem.values(), np.concatenate(pieces)[:total]
        require_updates(after, before[2] + 1)
        worst = max(worst, check_step(optimizer, before, after,
                                      flat.astype(np.float64) / float(scale), rate,
                                      values))  # fmt: skip
        if optimizer != "adam":
            weights, states = in_float32(optimizer, *before[:2], flat / scale, rate, values)
            require_equal("weights", after[0], weights)
            for found, expected in zip(after[1], states):
                require_equal("state", found, expected)
    pieces, place = random_pieces(rng, sizes, kind), int(rng.integers(total))
    for piece in pieces:
        if place < len(piece):
            piece[place] = rng.choice([np.nan, np.inf])
            break
        place -= len(piece)
    # The flag of a step is that of the weights, whether the step is applied or not.
    for finite in (True, False):
        if problem.update(pieces, 0.1, 3.0, finite):
            raise MismatchError("weights_finite: expected 0 with a weight that is not finite")
    return worst


def require_updates(values, expected):
    """Raises MismatchError unless the number of updates is as expected."""
    if values[2] != expected:
        raise MismatchError(f"iteration: expected {expected}, found {values[2]}")


def update_cases(large):
    """Returns [(sizes of the variables, kind of pieces, offset)]."""
    odd = (1, 3, 1024, 256, 1500, 0, 4100, 7, 9000)
    listed = [(odd, kind, 0) for kind in ("one", "each", "cuts")]
    listed += [(odd, "cuts", 4), ((1,), "one", 0), ((1024, 4, 6000, 512), "one", 0),
               ((5, 12) * 32, "cuts", 0)]  # fmt: skip
    if large:
        listed += [(MLPERF_SIZES, kind, offset) for kind in ("one", "each") for offset in (0, 4)]
    return listed


def run_record(library, memory, rng, skips):
    """A random sequence of steps equals a record that is kept on the host."""
    total, last, steps = np.float64(0), np.float32(0), 0
    buffers = [memory.upload(np.zeros(1, kind)) for kind in (np.float64, np.float32, np.int64)]
    for step in range(40):
        loss = np.float32(rng.uniform(0.1, 1.0) if step < 20 or rng.random() < 0.6 else np.nan)
        finite = not skips or rng.random() < 0.7
        sound = step < 30 or rng.random() < 0.5
        inputs = [memory.upload(np.asarray([loss]))]
        inputs += [memory.upload(np.asarray([flag], np.uint8)) for flag in (finite, sound)]
        record = LossRecord(
            *(buffer.pointer for buffer in inputs), skips,
            *(buffer.pointer for buffer in buffers),
        )  # fmt: skip
        library.record_loss(ctypes.byref(record), memory.stream)
        if not sound:
            loss = np.float32(np.nan)
        if skips or np.isfinite(last):
            last = loss
        if finite or not skips:
            total, steps = total + np.float64(loss), steps + 1
        found = [buffer.download()[0] for buffer in buffers]
        if not np.array_equal(found, [total, last, steps], equal_nan=True):
            raise MismatchError(f"step {step}: expected {total, last, steps}, found {found}")
    return 0.0


def checks(library, memory, large):
    """Yields (name, function of a random generator that returns (cases, largest error / limit))."""
    for optimizer in DENSE_OPTIMIZERS:
        yield (
            f"dense update {optimizer}",
            lambda rng, optimizer=optimizer: run_all(
                functools.partial(run_update, library, memory, rng, optimizer), update_cases(large)
            ),
        )
    yield (
        "loss record",
        lambda rng: run_all(
            functools.partial(run_record, library, memory, rng), [(False,), (True,)]
        ),
    )
