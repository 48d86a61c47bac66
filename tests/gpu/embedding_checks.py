"""Checks of the embedding kernels: bit for bit, or within an error bound for sums in any order."""

import ctypes
import functools

import numpy as np

from tests.gpu import reference
from tests.gpu.embedding_cases import ID_TYPES, atomics_cases, cases, long_cases
from tests.gpu.interaction_checks import MismatchError, require_within, run_all
from tests.gpu.launchers import (
    BFLOAT16,
    DTYPE_NAMES,
    FLOAT16,
    FLOAT32,
    EmbeddingBatch,
    int64_array,
)


def draw_ids(rng, kind, batch, sizes):
    """Returns ids [batch, len(sizes)], each below its size; kinds as in `Problem`."""
    shape = (batch, len(sizes))
    if kind == "equal":
        return np.broadcast_to(np.minimum(1, sizes - 1), shape).copy()
    if kind == "zipf":
        return rng.zipf(1.2, shape) % sizes
    if kind == "distinct":
        orders = [rng.permutation(max(batch, size))[:batch] for size in sizes]
        return np.stack(orders, 1) % sizes
    return rng.integers(0, sizes, shape)


class Problem:
    """Random tables, ids and gradients on the device, with copies on the host.

    Args:
        library: the launchers.
        memory: where buffers are allocated.
        rng: random generator.
        batch: B.
        sizes: rows of each table.
        dim: D.
        dtype: element type of gradients and vectors, as in `launchers`.
        id_type: numpy.int32 or numpy.int64.
        ids: distribution: uniform, zipf, equal, or distinct (as far as the table has rows).
        gap: unused rows before, between and after the tables; a negative gap makes neighbouring
            tables share rows.
        offset: bytes by which the gradients are misaligned.
    """

    def __init__(self, library, memory, rng, batch, sizes, dim, dtype, id_type, ids="uniform",
                 gap=3, offset=0):  # fmt: skip
        self.kernels, self.memory = library, memory
        self.batch, self.dim, self.dtype = batch, dim, dtype
        self.sizes = np.asarray(sizes, np.int64)
        self.base = np.cumsum(np.r_[abs(gap), self.sizes + gap])[: len(sizes)]
        self.total = int((self.base + self.sizes).max(initial=0)) + abs(gap)
        self.rows = rng.standard_normal((self.total, dim)).astype(np.float32)
        self.gradients = reference.to_storage(rng.standard_normal((batch, len(sizes), dim)), dtype)
        self.ids = self._draw(rng, ids).astype(id_type)
        library.take_id_error()  # left by a failed check
        self.device_ids = memory.upload(self.ids)
        self.device_gradients = memory.upload(self.gradients, offset)
        self._base, self._sizes = int64_array(self.base), int64_array(self.sizes)
        self.description = EmbeddingBatch(
            batch, len(sizes), dim, self.total, self.device_ids.pointer, self._base, self._sizes,
            library.id_error, ID_TYPES.index(id_type), dtype,
        )  # fmt: skip

    def _draw(self, rng, kind):
        return draw_ids(rng, kind, self.batch, self.sizes)

    @property
    def numbers(self):
        """Row of each id, flat; -1 for ids out of range."""
        ids = self.ids.astype(np.int64)
        good = (ids >= 0) & (ids < self.sizes)
        return np.where(good, ids + self.base, -1).reshape(-1)

    def flat_gradients(self):
        """Returns the gradients, float32 [B T, D]."""
        values = reference.from_storage(self.gradients, self.dtype)
        return values.astype(np.float32).reshape(-1, self.dim)

    def update(self, optimizer, rows, rate, scale=1.0, options=(), states=(), deterministic=True):
        """Runs an update of `rows` and `states`, which are buffers on the device."""
        step = self.memory.upload(np.asarray([rate, scale], np.float32))
        rule = self.kernels.rule(
            optimizer, step.pointer, options, [state.pointer for state in states], deterministic
        )
        size = self.kernels.workspace_bytes(self.description, rule)
        workspace = self.memory.empty(size, np.uint8)
        self.kernels.embedding_update(
            ctypes.byref(self.description), ctypes.byref(rule), self.device_gradients.pointer,
            rows.pointer, workspace.pointer, size, self.memory.stream,
        )  # fmt: skip
        workspace.download()  # checks its guards; keeps it until the kernels have run

    def check_error(self, expected):
        """Checks that the error record holds one of the bad ids that `add_bad_ids` returned."""
        self.memory.synchronize()
        found = self.kernels.take_id_error()
        if not expected:
            if found is not None:
                raise MismatchError(f"bad-id record: expected none, found {found}")
            return
        possible = self.possible_errors(expected)
        if found not in possible:
            raise MismatchError(
                f"bad-id record: expected one of {sorted(possible)[:4]}, found {found}"
            )
        if self.kernels.take_id_error() is not None:
            raise MismatchError("bad-id record: not cleared after it was taken")

    def possible_errors(self, bad_places):
        """Returns the records (table, sample, id, bound) of bad ids."""
        return {(t, b, int(self.ids[b, t]), int(self.sizes[t])) for b, t in bad_places}

    def add_bad_ids(self, rng):
        """Puts ids out of range at random (sample, table) places, which it returns."""
        bad = [-1, np.iinfo(self.ids.dtype).min, np.iinfo(self.ids.dtype).max]
        places = sorted({(int(rng.integers(self.batch)), int(rng.integers(len(self.sizes))))
                         for _ in range(5)})  # fmt: skip
        for k, (b, t) in enumerate(places):
            self.ids[b, t] = self.sizes[t] if k % 2 else bad[k // 2 % 3]
        self.device_ids = self.memory.upload(self.ids)
        self.description.ids = self.device_ids.pointer
        return places


def require_equal(what, found, expected):
    """Raises MismatchError unless both arrays hold the same bits."""
    if not np.array_equal(found.view(np.uint8), expected.view(np.uint8)):
        wrong = np.argwhere(found != expected)
        first = tuple(int(k) for k in wrong[0]) if len(wrong) else "(NaN or zero sign)"
        raise MismatchError(f"{what}: {len(wrong)} of {found.size} elements differ, first {first}")


def run_lookup(problem, bad_places):
    """Bit for bit: a lookup only converts."""
    rows = problem.memory.upload(problem.rows)
    out = problem.memory.empty(problem.gradients.size, problem.gradients.dtype)
    problem.kernels.embedding_lookup(
        ctypes.byref(problem.description), rows.pointer, out.pointer, problem.memory.stream
    )
    numbers = problem.numbers
    expected = np.where(numbers[:, None] >= 0, problem.rows[numbers], np.float32(0))
    require_equal("vectors", out.download(),
                  reference.to_storage(expected, problem.dtype).reshape(-1))  # fmt: skip
    problem.check_error(bad_places)
    return 0.0


def run_sgd(problem, bad_places):
    """SGD with atomics: within the rounding of sums in any order."""
    step = np.float32(0.37)
    rows = problem.memory.upload(problem.rows)
    problem.update("sgd", rows, step, deterministic=False)
    numbers, gradients = problem.numbers, problem.flat_gradients().astype(np.float64)
    used = numbers >= 0
    expected = problem.rows.astype(np.float64)
    magnitude, counts = np.abs(expected), np.zeros(problem.total)
    np.subtract.at(expected, numbers[used], float(step) * gradients[used])
    np.add.at(magnitude, numbers[used], np.abs(float(step) * gradients[used]))
    np.add.at(counts, numbers[used], 1)
    found, touched = rows.download(), counts > 0
    limit = 2.0**-24 * (counts[:, None] + 3) * magnitude
    require_equal("rows without ids", found[~touched], problem.rows[~touched])
    worst = require_within("rows", found[touched], expected[touched], limit[touched])
    problem.check_error(bad_places)
    return worst


def run_sgd_sorted(problem, bad_places):
    """Deterministic SGD: bit for bit a sequential loop."""
    step = np.float32(0.37)
    rows = problem.memory.upload(problem.rows)
    problem.update("sgd", rows, step)
    expected = reference.sequential_sgd(
        problem.rows, problem.numbers, problem.flat_gradients(), step
    )
    require_equal("rows", rows.download(), expected)
    problem.check_error(bad_places)
    return 0.0


# Hyper-parameters of the rules with states.
_OPTIONS = {
    "adagrad": (np.float32(1e-8),),
    "rowwise_adagrad": (np.float32(1e-8),),
    "ftrl": (0.02, 0.1, 0.5),
    "adam": (0.9, 0.99, 1e-3),
}


def run_stateful(problem, bad_places, name):
    """Bit for bit its operations in float32; row-wise: within the rounding of the mean square."""
    rate, scale = np.float32(0.05), np.float32(0.25)
    options = _OPTIONS[name]
    states = [np.abs(problem.rows) + np.float32(0.1)]
    if name == "rowwise_adagrad":
        states = [states[0][:, 0].copy()]
    if name == "ftrl":
        states[0][::2] = 0
        states.append(problem.rows * np.float32(-0.3))
    if name == "adam":
        states = [problem.rows * np.float32(-0.3), *states]
    starts = [problem.rows, *states]
    buffers = [problem.memory.upload(start) for start in starts]
    problem.update(name, buffers[0], rate, scale, options, buffers[1:])
    expected = reference.stateful(
        name, problem.rows, states, problem.numbers, problem.flat_gradients(), rate, scale,
        options,
    )  # fmt: skip
    problem.check_error(bad_places)
    worst = 0.0
    for buffer, wanted, start in zip(buffers, expected, starts):
        found = buffer.download()
        if name == "rowwise_adagrad":
            limit = 2.0**-20 * (np.abs(wanted) + np.abs(start))
            worst = max(worst, require_within(name, found, wanted, limit))
        else:
            # Adding 0 makes 0 and -0 equal.
            require_equal(name, found + np.float32(0), wanted + np.float32(0))
    return worst


def run_scale_0(problem, bad_places):
    """A scale of 0: gradients that are not finite change no bit, bad ids are still reported."""
    flat = problem.gradients.reshape(-1)
    values = reference.to_storage([np.nan, np.inf, -np.inf], problem.dtype)
    flat[::5] = np.resize(values, len(flat[::5]))
    problem.device_gradients = problem.memory.upload(problem.gradients)
    per_row, of_columns = problem.rows[:, 0].copy(), np.abs(problem.rows)
    for name, deterministic, options, states in (
        ("sgd", False, (), []), ("sgd", True, (), []), ("adagrad", True, (1e-8,), [of_columns]),
        ("rowwise_adagrad", True, (1e-8,), [per_row]),
        ("ftrl", True, _OPTIONS["ftrl"], [of_columns, problem.rows]),
        ("adam", True, _OPTIONS["adam"], [problem.rows, of_columns]),
    ):  # fmt: skip
        starts = [problem.rows, *states]
        buffers = [problem.memory.upload(start) for start in starts]
        problem.update(name, buffers[0], 0.05, 0.0, options, buffers[1:], deterministic)
        problem.check_error(bad_places)
        for buffer, start in zip(buffers, starts):
            require_equal(name, buffer.download(), start)
    return 0.0


def run_initialize(library, memory, rng, rows, dim, first, stride, offset):
    """Initialisation: bit for bit the documented function."""
    table, seed, limit = int(rng.integers(2**32)), int(rng.integers(-(2**62), 2**62)), 0.73
    buffer = memory.empty(rows * dim, np.float32, offset)
    library.embedding_initialize(
        buffer.pointer, dim, rows, first, stride, table, seed, limit, memory.stream
    )
    numbers = [first + k * stride for k in range(rows)]
    expected = reference.initial_rows(numbers, dim, table, seed, limit)
    require_equal("rows", buffer.download().reshape(rows, dim), expected)
    return 0.0


def run_shared_tables(library, memory, rng, dtype):
    """SGD with atomics on tables that share rows: small and large ones, in several launches."""
    worst, sizes = 0.0, [40, 400, 400, 6, 30] + [5] * 130
    for gap in (-3, -5):  # -5: the tables of 5 rows are one
        problem = Problem(library, memory, rng, 70, sizes, 16, dtype, np.int32, "zipf", gap)
        worst = max(worst, run_sgd(problem, []))
    return 2, worst


def checks(library, memory, large):
    """Yields (name, function of a random generator that returns (cases, largest error / limit))."""

    def group(run, dtype, further):
        def body(rng):
            def one(batch, sizes, dim, id_type, kind):
                problem = Problem(library, memory, rng, batch, sizes, dim, dtype, id_type, kind)
                return run(problem, problem.add_bad_ids(rng) if kind == "bad" else [])

            return run_all(one, [*cases(large), *further(large)])

        return body

    def nothing(_large):
        return ()

    runs = {
        "lookup": (run_lookup, nothing),
        "SGD atomics": (run_sgd, atomics_cases),
        "SGD deterministic": (run_sgd_sorted, long_cases),
        "Adagrad": (functools.partial(run_stateful, name="adagrad"), long_cases),
        "Adagrad row-wise": (functools.partial(run_stateful, name="rowwise_adagrad"), long_cases),
        "FTRL": (functools.partial(run_stateful, name="ftrl"), long_cases),
        "Adam": (functools.partial(run_stateful, name="adam"), long_cases),
        "scale 0": (run_scale_0, nothing),
    }
    for name, (run, further) in runs.items():
        for dtype in (FLOAT32, FLOAT16, BFLOAT16):
            yield f"embedding {name} {DTYPE_NAMES[dtype]}", group(run, dtype, further)
    for dtype in (FLOAT32, FLOAT16):
        yield (
            f"embedding SGD atomics shared tables {DTYPE_NAMES[dtype]}",
            functools.partial(run_shared_tables, library, memory, dtype=dtype),
        )

    def initialize(rng):
        listed = [(0, 128, 0, 1, 0), (300, 128, 5, 8, 0), (41, 127, 0, 1, 0), (9, 1, 3, 2, 0),
                  (33, 128, 2**33, 3, 4), (7, 130, 0, 1, 0)]  # fmt: skip
        return run_all(functools.partial(run_initialize, library, memory, rng), listed)

    yield "embedding initialise", initialize
