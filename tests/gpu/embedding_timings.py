"""Timings of the embedding kernels and of PyTorch's equivalents.

Bytes are the minimum traffic of an operation: ids and vectors (or gradients) once, each distinct
row once if it is read and once more if it is written. Rows that occur several times count once, as
if from a cache.
"""

import ctypes
import functools

import numpy as np

from tests.gpu.clock import entry, torch_dtype
from tests.gpu.launchers import DTYPE_NAMES, FLOAT16, FLOAT32, EmbeddingBatch, int64_array

BATCH, DIM, TABLES = 65_536, 128, 26
OTHER_BATCHES = (2048, 8192)
UNIFORM_ROWS = 600_000
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


class Tables:
    """Random tables on the device; ids, gradients and states are created on demand."""

    def __init__(self, library, stream, part, seed):
        import torch

        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.library, self.stream, self.part = library, stream, part
        self.sizes = np.asarray([UNIFORM_ROWS] * TABLES if part == "uniform" else CRITEO_CUT)
        self.base = np.cumsum(np.r_[0, self.sizes])[:-1]
        self.total = int(self.sizes.sum())
        self.rows = torch.randn((self.total, DIM), device="cuda")
        self._base, self._sizes = int64_array(self.base), int64_array(self.sizes)
        # One entry each: the states of all rows are as large as the tables.
        self.ids = functools.lru_cache(maxsize=1)(self._ids)
        self.vectors = functools.lru_cache(maxsize=1)(self._vectors)
        self.states = functools.lru_cache(maxsize=1)(self._states)

    def _ids(self, batch):
        """Returns (sets of ids, their rows, mean number of distinct rows)."""
        import torch

        rng, shape = self.rng, (batch, len(self.sizes))
        offset = torch.from_numpy(self.base).cuda()
        ids, flat = [], []
        for _ in range(3 if batch >= BATCH else 12):
            drawn = (rng.integers(0, self.sizes, shape) if self.part == "uniform"
                     else rng.zipf(1.2, shape) % self.sizes)  # fmt: skip
            ids.append(torch.from_numpy(drawn.astype(np.int32)).cuda())
            flat.append((ids[-1].long() + offset).reshape(-1))
        return ids, flat, float(np.mean([len(torch.unique(f)) for f in flat]))

    def _vectors(self, batch, dtype):
        import torch

        return torch.randn((batch * len(self.sizes), DIM), device="cuda").to(torch_dtype(dtype))

    def _states(self, per_row):
        import torch

        return [torch.rand((self.total,) if row else (self.total, DIM), device="cuda")
                for row in per_row]  # fmt: skip

    def batches(self, batch, dtype):
        """Returns the sets of ids as the launchers take them."""
        return [
            EmbeddingBatch(batch, len(self.sizes), DIM, self.total, ids.data_ptr(), self._base,
                           self._sizes, self.library.id_error, 0, dtype)
            for ids in self.ids(batch)[0]
        ]  # fmt: skip


def _bytes(tables, operation, batch, dtype):
    touched = tables.ids(batch)[2]
    places = batch * len(tables.sizes)
    size = places * (DIM * (4 if dtype == FLOAT32 else 2) + 4) + touched * DIM * 4
    if operation != "lookup":
        size += touched * DIM * 4
        size += sum(2 * touched * 4 * (1 if row else DIM) for row in UPDATES[operation][3])
    return size


def _peer(tables, operation, batch, dtype):
    """Returns PyTorch's calls: indexing, index_add_ (atomics) or index_put_ (sorted)."""
    flat, rows = tables.ids(batch)[1], tables.rows
    if operation == "lookup":
        return [lambda f=f: rows[f].to(torch_dtype(dtype)) for f in flat]
    vectors = tables.vectors(batch, dtype)
    if operation == "SGD atomics":
        return [lambda f=f: rows.index_add_(0, f, vectors.float(), alpha=-STEP) for f in flat]
    return [
        lambda f=f: rows.index_put_((f,), vectors.float().mul_(-STEP), accumulate=True)
        for f in flat
    ]


def _operation(tables, operation, batch, dtype):
    import torch

    tables = tables()
    library, stream, rows = tables.library, tables.stream, tables.rows.data_ptr()
    batches = tables.batches(batch, dtype)
    vectors = tables.vectors(batch, dtype)
    rule, step, workspace = None, None, None
    if operation != "lookup":
        optimizer, deterministic, options, per_row = UPDATES[operation]
        states = [state.data_ptr() for state in tables.states(per_row)]
        step = torch.tensor([STEP, 1.0], device="cuda")
        rule = library.rule(optimizer, step.data_ptr(), options, states, deterministic)
        size = library.workspace_bytes(batches[0], rule)
        workspace = torch.empty(size, dtype=torch.uint8, device="cuda")

    def run(description):
        if rule is None or workspace is None:
            library.embedding_lookup(ctypes.byref(description), rows, vectors.data_ptr(), stream)
        else:
            library.embedding_update(
                ctypes.byref(description), ctypes.byref(rule), vectors.data_ptr(), rows,
                workspace.data_ptr(), workspace.numel(), stream,
            )  # fmt: skip

    if operation == "lookup":  # overwrites the cached vectors
        tables.vectors.cache_clear()
    main = batch == BATCH
    peer = functools.partial(_peer, tables, operation, batch, dtype)
    return entry(
        library,
        _bytes(tables, operation, batch, dtype),
        [functools.partial(run, description) for description in batches],
        peer if main and (operation == "lookup" or "SGD" in operation) else None,
        GOALS.get(operation) if main and dtype == FLOAT16 and tables.part == "uniform" else None,
        repeats=20,
    )


def _initialize(tables):
    tables = tables()

    def run():
        tables.library.embedding_initialize(
            tables.rows.data_ptr(), DIM, tables.total, 0, 1, 3, 12345, 0.5, tables.stream
        )

    return entry(tables.library, tables.total * DIM * 4, [run], repeats=10)


def entries(library, stream, part, seed):
    """Returns [(name, function that returns a result for JSON)] of ``part`` uniform or criteo."""
    tables = functools.lru_cache(maxsize=1)(functools.partial(Tables, library, stream, part, seed))
    label = (f"{TABLES} x {UNIFORM_ROWS:,} rows" if part == "uniform"
             else "Criteo sizes, Zipf ids")  # fmt: skip
    cases = [(BATCH, FLOAT16), (BATCH, FLOAT32)]
    if part == "uniform":
        cases += [(batch, FLOAT16) for batch in OTHER_BATCHES]
    listed = []
    for batch, dtype in cases:
        kind = f"{DTYPE_NAMES[dtype]}, {label}" + (f", batch {batch:,}" if batch != BATCH else "")
        for operation in OPERATIONS:
            listed.append((f"{operation} {kind}", functools.partial(
                _operation, tables, operation, batch, dtype
            )))  # fmt: skip
    return [*listed, (f"initialise {label}", functools.partial(_initialize, tables))]
