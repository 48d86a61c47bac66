"""Checks of the embedding kernels on bags of ids."""

import ctypes
import functools

import numpy as np

from ops.bags import EMPTY
from tests.gpu import reference
from tests.gpu.bag_cases import BagCase, cases, long_cases
from tests.gpu.embedding_checks import (
    Problem,
    draw_ids,
    require_equal,
    run_scale_0,
    run_sgd,
    run_sgd_sorted,
    run_stateful,
)
from tests.gpu.interaction_checks import MismatchError, require_within, run_all
from tests.gpu.launchers import BFLOAT16, DTYPE_NAMES, FLOAT16, FLOAT32

_LONGEST = 70  # of bags of any length: more than two reads of a warp


class BagProblem(Problem):
    """Random tables, bags and gradients on the device, with copies on the host.

    Args:
        library: the launchers.
        memory: where buffers are allocated.
        rng: random generator.
        case: a `BagCase`.
        dtype: element type of gradients and vectors, as in `launchers`.
    """

    def __init__(self, library, memory, rng, case, dtype):
        self.case = case
        super().__init__(
            library, memory, rng, case.batch, case.sizes, case.dim, dtype, case.id_type, case.ids
        )
        if case.bags is not None:
            self.description.set_bags(case.bags)
            return
        self.device_offsets = memory.upload(self.offsets)
        self.description.offsets = self.device_offsets.pointer
        self.description.ids_count = len(self.ids)

    def _draw(self, rng, kind):
        """Returns the ids, [B, W] or [n]; sets `table_of` and `bag_of` (of each id, flat)."""
        if self.case.bags is None:
            lengths = rng.integers(0, 6, self.batch)
            lengths[rng.random(self.batch) < 0.1] = rng.integers(20, _LONGEST)
            self.offsets = np.r_[0, np.cumsum(lengths)].astype(np.int32)
            self.bag_of = np.repeat(np.arange(self.batch), lengths)
            self.table_of = np.zeros_like(self.bag_of)
            return draw_ids(rng, kind, len(self.bag_of), self.sizes)[:, 0]
        bags, samples = self.case.bags, np.arange(self.batch)[:, None]
        tables = np.asarray(bags.feature_of_slots())
        self.table_of = np.tile(tables, self.batch)
        self.bag_of = (samples * bags.features + tables).reshape(-1)
        ids = draw_ids(rng, kind, self.batch, self.sizes[tables])
        for first, slots, variable in zip(bags.first_slots, bags.hotness, bags.variable):
            if variable:
                lengths = rng.integers(0, slots + 1, self.batch)
                ids[:, first : first + slots][np.arange(slots) >= lengths[:, None]] = EMPTY
        return ids

    @property
    def has_id(self):
        """Whether each id, flat, is one, good or not: not an empty slot."""
        if self.case.bags is None:
            return np.ones(len(self.bag_of), bool)
        variable = np.asarray(self.case.bags.variable)[self.table_of]
        return ~variable | (self.ids.reshape(-1) != EMPTY)

    @property
    def numbers(self):
        ids = self.ids.astype(np.int64).reshape(-1)
        good = (ids >= 0) & (ids < self.sizes[self.table_of])
        return np.where(good, ids + self.base[self.table_of], -1)

    @property
    def factors(self):
        """Factor on the sum of each bag: float32 [B T]."""
        bags = self.batch * len(self.sizes)
        counts = np.bincount(self.bag_of[self.has_id], minlength=bags)
        factors = np.ones(bags, np.float32)
        if self.case.bags is not None:
            mean = [name == "mean" for name in self.case.bags.pooling]
            chosen = np.tile(mean, self.batch) & (counts > 0)
            factors[chosen] = np.float32(1) / counts[chosen].astype(np.float32)
        return factors

    def flat_gradients(self):
        """Returns the gradient of each id, float32."""
        return (super().flat_gradients() * self.factors[:, None])[self.bag_of]

    def pooled(self):
        """Returns the vectors [B T, D]: float32 sums in the order of the ids, and float64 sums."""
        bags, numbers = self.batch * len(self.sizes), self.numbers
        # Sequential SGD with step -1 on zeros is a running sum.
        owners = np.where(numbers >= 0, self.bag_of, -1)
        rows = self.rows[numbers]
        sums = reference.sequential_sgd(np.zeros((bags, self.dim), np.float32), owners, rows, -1.0)
        exact = np.zeros((bags, self.dim))
        np.add.at(exact, self.bag_of[numbers >= 0], rows[numbers >= 0].astype(np.float64))
        return sums * self.factors[:, None], exact * self.factors[:, None].astype(np.float64)

    def add_bad_ids(self, rng):
        """Puts ids out of range at random indices of the flat ids, which it returns."""
        bad = [np.iinfo(self.ids.dtype).min, np.iinfo(self.ids.dtype).max, -2]
        flat = self.ids.reshape(-1)
        indices = np.unique(rng.integers(len(flat), size=5))
        for k, index in enumerate(indices):
            flat[index] = self.sizes[self.table_of[index]] if k % 2 else bad[k // 2 % 3]
            if self.case.bags is not None and not self.case.bags.variable[self.table_of[index]]:
                flat[index] = (EMPTY, flat[index])[k % 2]
        self.device_ids = self.memory.upload(self.ids)
        self.description.ids = self.device_ids.pointer
        return [
            (self.bag_of[k] // len(self.sizes), self.table_of[k], flat[k]) for k in indices.tolist()
        ]

    def possible_errors(self, bad_ids):
        return {(t, b, int(number), int(self.sizes[t])) for b, t, number in bad_ids}


def run_lookup(problem, bad_ids):
    """Bit for bit a sequential sum in float32; also compared with sums in float64."""
    rows = problem.memory.upload(problem.rows)
    out = problem.memory.empty(problem.gradients.size, problem.gradients.dtype)
    problem.kernels.embedding_lookup(
        ctypes.byref(problem.description), rows.pointer, out.pointer, problem.memory.stream
    )
    expected, exact = problem.pooled()
    stored = reference.to_storage(expected, problem.dtype).reshape(-1)
    found = out.download()
    values = reference.from_storage(found, problem.dtype)
    # Adding 0 makes 0 and -0 equal.
    require_equal("vectors", values + 0.0, reference.from_storage(stored, problem.dtype) + 0.0)
    problem.check_error(bad_ids)
    most = np.bincount(problem.bag_of).max(initial=1)
    limit = 2.0**-23 * most * (most + np.abs(exact)) + 2.0 * reference.ROUNDING[
        problem.dtype
    ] * np.abs(exact)
    return require_within("vectors", values.reshape(exact.shape), exact, limit + 1e-7)


def checks(library, memory, large):
    """Yields (name, function of a random generator that returns (cases, largest error / limit))."""

    def group(run, dtype, further):
        def body(rng):
            def one(*case):
                problem = BagProblem(library, memory, rng, BagCase(*case), dtype)
                bad = case[-1] == "bad" and problem.ids.size > 0
                return run(problem, problem.add_bad_ids(rng) if bad else [])

            slow = run is run_sgd and dtype != FLOAT16
            listed = [*cases(large, large or not slow), *further(large)]
            return run_all(one, listed)

        return body

    def nothing(_large):
        return ()

    runs = {
        "lookup": (run_lookup, nothing),
        "SGD atomics": (run_sgd, long_cases),
        "SGD deterministic": (run_sgd_sorted, long_cases),
        "Adagrad": (functools.partial(run_stateful, name="adagrad"), long_cases),
        "Adagrad row-wise": (functools.partial(run_stateful, name="rowwise_adagrad"), long_cases),
        "FTRL": (functools.partial(run_stateful, name="ftrl"), long_cases),
        "Adam": (functools.partial(run_stateful, name="adam"), long_cases),
        "scale 0": (run_scale_0, nothing),
    }
    for name, (run, further) in runs.items():
        for dtype in (FLOAT32, FLOAT16, BFLOAT16):
            yield f"embedding bags {name} {DTYPE_NAMES[dtype]}", group(run, dtype, further)
    for dtype in (FLOAT32, FLOAT16):
        yield (
            f"embedding bags bad offsets {DTYPE_NAMES[dtype]}",
            functools.partial(run_bad_offsets, library, memory, dtype=dtype),
        )


def run_bad_offsets(library, memory, rng, dtype):
    """Offsets that decrease or leave the ids: no bad id is read, and every vector is written."""
    for number in range(4):
        problem = BagProblem(library, memory, rng, BagCase(40, (50,), None, 32, np.int32), dtype)
        offsets = problem.offsets.copy()
        wrong = rng.integers(len(offsets), size=12)
        limits = np.iinfo(np.int32)
        offsets[wrong] = rng.choice([limits.min, -1, 3, len(problem.ids) + 1, limits.max], 12)
        if number == 3:
            offsets = offsets[::-1].copy()
        device_offsets = memory.upload(offsets)
        problem.description.offsets = device_offsets.pointer
        rows = memory.upload(np.ones_like(problem.rows))
        out = memory.empty(problem.gradients.size, problem.gradients.dtype)
        library.embedding_lookup(
            ctypes.byref(problem.description), rows.pointer, out.pointer, memory.stream
        )
        lengths = reference.from_storage(out.download(), dtype).reshape(problem.batch, -1)
        # NaN, where nothing was written, is not equal to itself.
        if not (lengths == lengths[:, :1]).all() or lengths.min() < 0:
            raise MismatchError("vectors: expected the number of ids of each bag")
        for deterministic in (False, True):
            problem.update("sgd", rows, 0.1, deterministic=deterministic)
            rows.download()
        problem.check_error([])
    return 4, 0.0
