"""Checks on the MLPerf tables: 187,767,399 rows of 128 float32 elements, 89.5 GiB.

Initial values, a lookup and both kinds of SGD, for uniform and skewed ids, are compared with the
documented initial values and with float64 sums: at the first and last row of every table, around
the rows whose offsets reach 2^31 and 2^32 elements (or groups of four), at random rows of the batch
with their neighbours, and at random rows of the tables.
"""

import ctypes

import numpy as np

from planner.published_runs import VOCABULARIES
from tests.gpu import reference
from tests.gpu.embedding_checks import require_equal
from tests.gpu.interaction_checks import MismatchError, require_within
from tests.gpu.launchers import FLOAT16, EmbeddingBatch, int64_array
from tests.gpu.memory import workspace
from tests.gpu.random_ids import draw_ids

SIZES = VOCABULARIES["mlperf"]
BATCH, DIM = 65_536, 128
# Row numbers: 2^31 and 2^32 elements, then groups of four elements.
BOUNDARIES = (2**24, 2**25, 2**26, 2**27)
RATE, SCALE = 0.37, 2.0**-10  # their product is exact
SAMPLES, RANDOM_ROWS = 300, 2000
_WORKING_BYTES = 8e9


class FullTables:
    """Tables on the device, and the rows and samples of one batch that are verified.

    Args:
        library: the launchers.
        memory: a `TorchMemory`.
        rng: random generator.
        sizes: rows of each table.
        batch: B, at least 2 + 3 times the number of boundaries.
        boundaries: row numbers, counted through all tables, that the batch looks up.
    """

    def __init__(self, library, memory, rng, sizes, batch, boundaries):
        import torch

        torch.manual_seed(int(rng.integers(2**62)))
        self.torch, self.library, self.memory, self.rng = torch, library, memory, rng
        self.sizes, self.batch, self.boundaries = np.asarray(sizes, np.int64), batch, boundaries
        self.base = np.cumsum(np.r_[0, self.sizes])[:-1]
        self.total = int(self.sizes.sum())
        self.seed = int(rng.integers(2**62))
        self.rows = torch.empty((self.total, DIM), device=memory.place)
        shape = (batch, len(sizes), DIM)
        self.vectors = torch.empty(shape, dtype=torch.float16, device=memory.place)
        self.gradients = torch.randn(shape, device=memory.place).half()
        self._base, self._sizes = int64_array(self.base), int64_array(self.sizes)

    def initialize(self):
        """Sets the rows to their initial values: table t in U[-1/sqrt(rows), 1/sqrt(rows))."""
        for table, (base, size) in enumerate(zip(self.base.tolist(), self.sizes.tolist())):
            self.library.embedding_initialize(
                self.rows[base:].data_ptr(), DIM, size, 0, 1, table, self.seed, size**-0.5,
                self.memory.stream,
            )  # fmt: skip

    def initial_rows(self, numbers):
        """Returns the documented initial values of rows counted through all tables."""
        tables = np.searchsorted(self.base, numbers, "right") - 1
        values = np.empty((len(numbers), DIM), np.float32)
        for table in np.unique(tables):
            chosen = tables == table
            values[chosen] = reference.initial_rows(
                numbers[chosen] - self.base[table], DIM, int(table), self.seed,
                float(self.sizes[table]) ** -0.5,
            )  # fmt: skip
        return values

    def draw(self, kind):
        """Draws a batch of ids; chooses the samples and the rows that are verified."""
        ids = draw_ids(self.rng, self.sizes, self.batch, kind)
        ids[0], ids[1] = 0, self.sizes - 1
        wanted = [row + k for row in self.boundaries for k in (-1, 0, 1) if row + k < self.total]
        for sample, row in enumerate(wanted, 2):
            table = int(np.searchsorted(self.base, row, "right")) - 1
            ids[sample, table] = row - self.base[table]
        special = np.arange(2 + len(wanted))
        self.samples = np.unique(np.r_[special, self.rng.integers(0, self.batch, SAMPLES)])
        self.flat = (ids + self.base).reshape(-1)
        looked_up = self.flat.reshape(ids.shape)[self.samples].reshape(-1)
        near = np.r_[looked_up - 1, looked_up, looked_up + 1,
                     self.rng.integers(0, self.total, RANDOM_ROWS)]  # fmt: skip
        self.verified = np.unique(near[(near >= 0) & (near < self.total)])
        self.start = self.initial_rows(self.verified)
        self.ids = self.torch.from_numpy(ids).to(self.memory.place)
        self.description = EmbeddingBatch(
            self.batch, len(self.sizes), DIM, self.total, self.ids.data_ptr(), self._base,
            self._sizes, self.library.id_error, 0, FLOAT16,
        )  # fmt: skip

    def check_lookup(self):
        """Looks the batch up and compares the chosen samples bit for bit."""
        self.vectors.fill_(self.torch.nan)
        self.library.embedding_lookup(
            ctypes.byref(self.description), self.rows.data_ptr(), self.vectors.data_ptr(),
            self.memory.stream,
        )  # fmt: skip
        found = self.vectors[self._on_device(self.samples)].cpu().numpy().reshape(-1, DIM)
        numbers = self.flat.reshape(self.batch, -1)[self.samples].reshape(-1)
        expected = self.start[np.searchsorted(self.verified, numbers)].astype(np.float16)
        require_equal("vectors", found, expected)

    def check_update(self, deterministic):
        """Updates the tables by SGD; returns the largest error divided by its limit."""
        torch = self.torch
        step = torch.tensor([RATE, SCALE], device=self.memory.place)
        rule = self.library.rule("sgd", step.data_ptr(), deterministic=deterministic)
        size = self.library.workspace_bytes(self.description, rule)
        space = workspace(size, self.memory.place)
        self.library.embedding_update(
            ctypes.byref(self.description), ctypes.byref(rule), self.gradients.data_ptr(),
            self.rows.data_ptr(), space.data_ptr(), size, self.memory.stream,
        )  # fmt: skip
        found = self.rows[self._on_device(self.verified)].cpu().numpy()
        sums, magnitudes, counts = self._sums()
        factor = float(np.float32(RATE)) * SCALE
        touched = counts > 0
        require_equal("rows without ids", found[~touched], self.start[~touched])
        start = self.start[touched].astype(np.float64)
        magnitude = np.abs(start) + factor * magnitudes[touched]
        return require_within(
            "rows", found[touched], start - factor * sums[touched],
            2.0**-24 * (counts[touched, None] + 3) * magnitude,
        )  # fmt: skip

    def _sums(self):
        """Returns (sums of gradients, of their magnitudes, counts) of the verified rows."""
        torch = self.torch
        at = np.searchsorted(self.verified, self.flat).clip(max=len(self.verified) - 1)
        places = np.flatnonzero(self.verified[at] == self.flat)
        index, places = self._on_device(at[places]), self._on_device(places)
        terms = self.gradients.view(-1, DIM)[places].double()
        zeros = torch.zeros((len(self.verified), DIM), dtype=torch.float64, device=terms.device)
        sums = zeros.clone().index_add_(0, index, terms).cpu().numpy()
        magnitudes = zeros.index_add_(0, index, terms.abs_()).cpu().numpy()
        counts = torch.bincount(index, minlength=len(self.verified)).cpu().numpy()
        return sums, magnitudes, counts

    def _on_device(self, array):
        return self.torch.from_numpy(array).to(self.memory.place)


def run(library, memory, sizes, batch, boundaries, rng):
    """Returns (verified rows, largest error divided by its limit); raises MismatchError."""
    tables, cases, worst = FullTables(library, memory, rng, sizes, batch, boundaries), 0, 0.0
    library.take_id_error()  # left by a failed check
    for kind in ("uniform", "skewed"):
        tables.draw(kind)
        for deterministic in (False, True):
            tables.initialize()
            tables.check_lookup()
            name = f"{kind} ids, SGD {'deterministic' if deterministic else 'atomics'}"
            try:
                worst = max(worst, tables.check_update(deterministic))
            except MismatchError as error:
                raise MismatchError(f"{name}: {error}") from error
            cases += len(tables.verified)
    memory.synchronize()
    bad = library.take_id_error()
    if bad is not None:
        raise MismatchError(f"bad-id record: expected none, found {bad}")
    return cases, worst


def checks(library, memory, _large):
    """Yields (name, function of a random generator that returns (cases, largest error / limit))."""

    def on_gpu(rng):
        memory.require_free(sum(SIZES) * DIM * 4 + _WORKING_BYTES)
        return run(library, memory, SIZES, BATCH, BOUNDARIES, rng)

    yield "embedding MLPerf tables", on_gpu
