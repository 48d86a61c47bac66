"""Timings of the embedding kernels and of PyTorch's equivalents.

Bytes are the minimum traffic of an operation: ids and vectors (or gradients) once, each distinct
row once if it is read and once more if it is written. Rows that occur several times count once, as
if from a cache. Kinds of ids: see `random_ids`.
"""

import ctypes
import functools

import numpy as np

from planner.published_runs import VOCABULARIES
from tests.gpu.clock import entry, torch_dtype
from tests.gpu.launchers import DTYPE_NAMES, FLOAT16, FLOAT32, EmbeddingBatch, int64_array
from tests.gpu.memory import workspace
from tests.gpu.random_ids import draw_ids, hottest_shares

BATCH, DIM, TABLES = 65_536, 128, 26
OTHER_BATCHES = (2048, 8192)
UNIFORM_ROWS = 600_000
_WORKING_BYTES = 8e9  # vectors, workspaces, and PyTorch's copies
# Sizes of the 26 Criteo tables, limited to 2 million rows so that tables and optimizer state fit a
# GPU of 40 GB.
CRITEO_CUT = (
    2_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 2_000_000, 2_000_000, 405_282,
    10, 2_209, 11_938, 155, 4, 976, 14, 2_000_000, 2_000_000, 2_000_000, 590_152, 12_973, 108, 36,
)  # fmt: skip
GOALS = {"lookup": 0.85, "SGD atomics": 0.7}  # share of the copy bandwidth, float16 at BATCH
STEP = 1e-3
# {name: (optimizer, deterministic, hyper-parameters, (whether each state is per row, ...))}.
UPDATES = {
    "SGD atomics": ("sgd", False, (), ()),
    "SGD deterministic": ("sgd", True, (), ()),
    "Adagrad row-wise": ("rowwise_adagrad", True, (1e-8,), (True,)),
    "Adagrad": ("adagrad", True, (1e-8,), (False,)),
    "FTRL": ("ftrl", True, (1e-6, 0.0, 1.0), (False, False)),
}
OPERATIONS = ("lookup", *UPDATES)
WITHOUT_STATE = ("lookup", "SGD atomics", "SGD deterministic")
# {part: (label, rows of each table)}. The full tables show the effect of TLB misses.
PARTS = {
    "uniform": (f"{TABLES} x {UNIFORM_ROWS:,} rows", (UNIFORM_ROWS,) * TABLES),
    "criteo": ("Criteo sizes", CRITEO_CUT),
    "full": ("MLPerf sizes", VOCABULARIES["mlperf"]),
}
# {part: [(kind of ids, batch, dtype, operations)]}.
CASES = {
    "uniform": [
        *(("uniform", BATCH, dtype, OPERATIONS) for dtype in (FLOAT16, FLOAT32)),
        *(("uniform", batch, FLOAT16, OPERATIONS) for batch in OTHER_BATCHES),
        ("one row", BATCH, FLOAT16, WITHOUT_STATE),
    ],
    "criteo": [("skewed", BATCH, dtype, OPERATIONS) for dtype in (FLOAT16, FLOAT32)],
    "full": [(kind, BATCH, FLOAT16, WITHOUT_STATE) for kind in ("uniform", "skewed", "one row")],
}


class Tables:
    """Tables of a part on the device; ids, gradients and states are created on demand.

    Args:
        library: the launchers.
        memory: a `TorchMemory`.
        part: its name, a key of `PARTS`.
        sizes: rows of each table.
        seed: seed of rows, ids and gradients.
    """

    def __init__(self, library, memory, part, sizes, seed):
        import torch

        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.library, self.stream, self.place, self.part = (
            library, memory.stream, memory.place, part
        )  # fmt: skip
        self.sizes = np.asarray(sizes, np.int64)
        self.base = np.cumsum(np.r_[0, self.sizes])[:-1]
        self.total = int(self.sizes.sum())
        self.rows = torch.empty((self.total, DIM), device=self.place)
        self.initialize()
        self._base, self._sizes = int64_array(self.base), int64_array(self.sizes)
        # One entry each: the states of all rows are as large as the tables.
        self.ids = functools.lru_cache(maxsize=1)(self._ids)
        self.vectors = functools.lru_cache(maxsize=1)(self._vectors)
        self.states = functools.lru_cache(maxsize=1)(self._states)

    def initialize(self):
        """Sets all rows to random values."""
        self.library.embedding_initialize(
            self.rows.data_ptr(), DIM, self.total, 0, 1, 3, 12345, 0.5, self.stream
        )

    def _ids(self, batch, kind):
        """Returns (sets of ids, their rows, mean number of distinct rows, shares of hot rows)."""
        import torch

        offset = torch.from_numpy(self.base).to(self.place)
        ids, flat, shares = [], [], []
        for _ in range(3 if batch >= BATCH else 12):
            drawn = draw_ids(self.rng, self.sizes, batch, kind)
            shares.append(hottest_shares(drawn))
            ids.append(torch.from_numpy(drawn).to(self.place))
            flat.append((ids[-1].long() + offset).reshape(-1))
        distinct = float(np.mean([len(torch.unique(f)) for f in flat]))
        return ids, flat, distinct, np.mean(shares, axis=0).round(4).tolist()

    def _vectors(self, batch, dtype):
        import torch

        shape = (batch * len(self.sizes), DIM)
        return torch.randn(shape, device=self.place).to(torch_dtype(dtype))

    def _states(self, per_row):
        import torch

        return [torch.rand((self.total,) if row else (self.total, DIM), device=self.place)
                for row in per_row]  # fmt: skip

    def batches(self, batch, kind, dtype):
        """Returns the sets of ids as the launchers take them."""
        return [
            EmbeddingBatch(batch, len(self.sizes), DIM, self.total, ids.data_ptr(), self._base,
                           self._sizes, self.library.id_error, 0, dtype)
            for ids in self.ids(batch, kind)[0]
        ]  # fmt: skip

    def least_bytes(self, operation, kind, batch, dtype):
        """Returns the minimum traffic of an operation."""
        places = batch * len(self.sizes)
        return places * 4 + self._bytes_of_vectors(operation, kind, batch, dtype)

    def _bytes_of_vectors(self, operation, kind, batch, dtype):
        touched = self.ids(batch, kind)[2]
        places = batch * len(self.sizes)
        size = places * DIM * (4 if dtype == FLOAT32 else 2) + touched * DIM * 4
        if operation != "lookup":
            size += touched * DIM * 4
            size += sum(2 * touched * 4 * (1 if row else DIM) for row in UPDATES[operation][3])
        return size

    def has_peer(self, operation, kind, batch):
        """Whether PyTorch has an equivalent that is timed."""
        # With a single row per table index_put_ takes seconds.
        if batch != BATCH or kind == "one row" or operation not in WITHOUT_STATE:
            return False
        return self.part != "full" or operation != "SGD deterministic"

    def peer(self, operation, kind, batch, dtype):
        """Returns PyTorch's calls: indexing, index_add_ (atomics) or index_put_ (sorted)."""
        flat, rows = self.ids(batch, kind)[1], self.rows
        if operation == "lookup":
            return [lambda f=f: rows[f].to(torch_dtype(dtype)) for f in flat]
        vectors = self.vectors(batch, dtype)
        if operation == "SGD atomics":
            return [lambda f=f: rows.index_add_(0, f, vectors.float(), alpha=-STEP) for f in flat]
        return [
            lambda f=f: rows.index_put_((f,), vectors.float().mul_(-STEP), accumulate=True)
            for f in flat
        ]


def time_operation(tables, operation, kind, batch, dtype):
    """Returns the result of one operation, for JSON.

    Args:
        tables: returns the `Tables`.
        operation: one of `OPERATIONS`.
        kind: of ids.
        batch: B.
        dtype: of vectors or gradients.
    """
    import torch

    tables = tables()
    library, stream, rows = tables.library, tables.stream, tables.rows.data_ptr()
    batches = tables.batches(batch, kind, dtype)
    vectors = tables.vectors(batch, dtype)
    rule, step, space = None, None, None
    if operation != "lookup":
        optimizer, deterministic, options, per_row = UPDATES[operation]
        states = [state.data_ptr() for state in tables.states(per_row)]
        step = torch.tensor([STEP, 1.0], device=tables.place)
        rule = library.rule(optimizer, step.data_ptr(), options, states, deterministic)
        space = workspace(library.workspace_bytes(batches[0], rule), tables.place)

    def run(description):
        if rule is None or space is None:
            library.embedding_lookup(ctypes.byref(description), rows, vectors.data_ptr(), stream)
        else:
            library.embedding_update(
                ctypes.byref(description), ctypes.byref(rule), vectors.data_ptr(), rows,
                space.data_ptr(), space.numel(), stream,
            )  # fmt: skip

    if operation == "lookup":  # overwrites the cached vectors
        tables.vectors.cache_clear()
    has_goal = (tables.part, kind, batch, dtype) == ("uniform", "uniform", BATCH, FLOAT16)
    has_peer = tables.has_peer(operation, kind, batch)
    result = entry(
        library,
        tables.least_bytes(operation, kind, batch, dtype),
        [functools.partial(run, description) for description in batches],
        functools.partial(tables.peer, operation, kind, batch, dtype) if has_peer else None,
        GOALS.get(operation) if has_goal else None,
        repeats=20,
    )
    return {**result, "hottest_row_shares": tables.ids(batch, kind)[3]}


def _initialize(tables):
    tables = tables()
    return entry(tables.library, tables.total * DIM * 4, [tables.initialize], repeats=10)


def entries(library, memory, part, seed):
    """Returns [(name, function that returns a result for JSON)] of a part.

    Each result of a lookup or an update has, beside the times, "hottest_row_shares": for each table
    the share of the lookups that go to its most frequent row.
    """
    label = PARTS[part][0]
    if part == "full":
        try:
            memory.require_free(sum(PARTS[part][1]) * DIM * 4 + _WORKING_BYTES)
        except MemoryError as error:
            return [(label, functools.partial(_skip, error))]
    tables = functools.lru_cache(maxsize=1)(
        functools.partial(Tables, library, memory, part, PARTS[part][1], seed)
    )
    listed = []
    for kind, batch, dtype, operations in CASES[part]:
        case = f"{DTYPE_NAMES[dtype]}, {label}, {kind}{' ids' * (kind != 'one row')}"
        if batch != BATCH:
            case += f", batch {batch:,}"
        for operation in operations:
            listed.append((f"{operation} {case}", functools.partial(
                time_operation, tables, operation, kind, batch, dtype
            )))  # fmt: skip
    return [*listed, (f"initialise {label}", functools.partial(_initialize, tables))]


def _skip(error):
    raise error
