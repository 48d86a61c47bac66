"""Times the kernels on a GPU beside PyTorch's formulation and the device's own limits.

Times are medians over CUDA events, after a warm-up, on random data that is many times the L2 cache
and changes from call to call. Bytes are the fewest an operation must move: each input read once,
each output written once, each updated row read and written once.
"""

import ctypes
import functools

import numpy as np

from tests.gpu.launchers import (
    ACCURATE,
    BFLOAT16,
    DTYPE_NAMES,
    FLOAT16,
    FLOAT32,
    TF32,
    EmbeddingBatch,
    InteractionShape,
    int64_array,
)

BATCH, FEATURES, DIM, TABLES = 65_536, 27, 128, 26


def median_seconds(calls, repeats=30, warmup=4):
    """Median time of one call; ``calls`` are variants over different buffers, taken in turn."""
    import torch

    for k in range(warmup):
        calls[k % len(calls)]()
    times = []
    for k in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        calls[k % len(calls)]()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return float(np.median(times))


def _torch_dtype(dtype):
    import torch

    return {FLOAT32: torch.float32, FLOAT16: torch.float16, BFLOAT16: torch.bfloat16}[dtype]


def copy_bandwidth():
    """Bytes read plus bytes written per second by a device-to-device copy of 2 GiB."""
    import torch

    source = torch.randint(0, 255, (2**31,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds([lambda: target.copy_(source)])


def matrix_rate(dtype):
    """FLOP/s of an 8192 x 8192 x 8192 product of random matrices."""
    import torch

    a, b = (torch.randn((8192, 8192), device="cuda").to(dtype) for _ in range(2))
    return 2 * 8192**3 / median_seconds([lambda: a @ b], repeats=10)


def machine():
    """The device's own limits, measured."""
    import torch

    properties = torch.cuda.get_device_properties(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    rates = {"float16": matrix_rate(torch.float16), "bfloat16": matrix_rate(torch.bfloat16)}
    torch.backends.cuda.matmul.allow_tf32 = True
    rates["TF32"] = matrix_rate(torch.float32)
    return {
        "device": properties.name, "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size, "torch": torch.__version__,
        "cuda": torch.version.cuda, "copy_bytes_per_s": copy_bandwidth(), "flop_per_s": rates,
    }  # fmt: skip


def _torch_interaction(x, rows, columns, padding):
    import torch

    products = torch.bmm(x, x.transpose(1, 2))[:, rows, columns]
    return torch.cat([x[:, 0], products, padding], dim=1)


def interaction_rows(library, stream, dtype, mode):
    """Yields one row each for forward and backward."""
    import torch

    kind = _torch_dtype(dtype)
    torch.backends.cuda.matmul.allow_tf32 = mode == TF32
    shape = InteractionShape(BATCH, FEATURES, DIM, dtype, mode)
    width = library.width(FEATURES, DIM)
    size = torch.empty((), dtype=kind).element_size()
    label = f"{DTYPE_NAMES[dtype]}{' TF32' if mode == TF32 else ''}"
    sets = []
    for _ in range(2):
        x = torch.randn((BATCH, FEATURES, DIM), device="cuda").to(kind)
        sets.append((x, torch.randn((BATCH, width), device="cuda").to(kind),
                     torch.empty((BATCH, width), device="cuda", dtype=kind),
                     torch.empty_like(x)))  # fmt: skip

    def place(tensor):
        return tensor.data_ptr(), FEATURES * DIM, tensor.data_ptr() + size * DIM, FEATURES * DIM

    def forward(x, _, out, __):
        library.dot_interaction_forward(ctypes.byref(shape), *place(x), out.data_ptr(), stream)

    def backward(x, upstream, _, gradient):
        library.dot_interaction_backward(
            ctypes.byref(shape), *place(x), upstream.data_ptr(), *place(gradient), stream
        )

    rows, columns = torch.tril_indices(FEATURES, FEATURES, -1, device="cuda")
    padding = torch.zeros((BATCH, width - DIM - len(rows)), device="cuda", dtype=kind)
    leaves = [entry[0].detach().requires_grad_() for entry in sets]
    outputs = [_torch_interaction(leaf, rows, columns, padding) for leaf in leaves]
    times = {
        "forward": (forward, [
            lambda x=x: _torch_interaction(x.detach(), rows, columns, padding) for x in leaves
        ]),
        "backward": (backward, [
            lambda k=k: torch.autograd.grad(outputs[k], leaves[k], sets[k][1], retain_graph=True)
            for k in range(2)
        ]),
    }  # fmt: skip
    bytes_moved = {
        "forward": BATCH * size * (FEATURES * DIM + width),
        "backward": BATCH * size * (2 * FEATURES * DIM + width),
    }
    for direction, (function, torch_calls) in times.items():
        ours = median_seconds([lambda e=e, f=function: f(*e) for e in sets])
        torch_time = median_seconds(torch_calls, repeats=10)
        yield f"dot interaction {direction} {label}", bytes_moved[direction], ours, torch_time


class Tables:
    """Tables of random rows on the device and ids to look up, several sets of them."""

    def __init__(self, library, sizes, distribution):
        import torch

        self.sizes, self.base = np.asarray(sizes), np.cumsum(np.r_[0, sizes])[:-1]
        self.total = int(np.sum(sizes))
        self.rows = torch.randn((self.total, DIM), device="cuda")
        self.error = library.new_id_error()
        rng = np.random.default_rng()
        self.ids = []
        for _ in range(3):
            shape = (BATCH, len(sizes))
            drawn = (
                rng.integers(0, self.sizes, shape)
                if distribution == "uniform"
                else rng.zipf(1.2, shape) % self.sizes
            )
            self.ids.append(torch.from_numpy(drawn.astype(np.int32)).cuda())
        offset = torch.from_numpy(self.base).cuda()
        self.flat = [(ids.long() + offset).reshape(-1) for ids in self.ids]
        self.touched = float(np.mean([len(torch.unique(f)) for f in self.flat]))
        self._base, self._sizes = int64_array(self.base), int64_array(self.sizes)

    def batch(self, k, dtype):
        """Description of set k for the launchers."""
        return EmbeddingBatch(
            BATCH, len(self.sizes), DIM, self.total, self.ids[k].data_ptr(), self._base,
            self._sizes, self.error, 0, dtype,
        )  # fmt: skip


def embedding_rows(library, stream, tables, dtype, label):
    """Yields one row per operation on the same tables and ids.

    Bytes count rows that several places share once, as a cache could have it.
    """
    import torch

    kind, count = _torch_dtype(dtype), len(tables.sizes)
    places, step = BATCH * count, 1e-3
    label = f"{DTYPE_NAMES[dtype]}, {label}"
    vectors = torch.empty((places, DIM), device="cuda", dtype=kind)
    vector_bytes = vectors.numel() * vectors.element_size() + 4 * places
    row_bytes = tables.touched * DIM * 4
    batches = [ctypes.byref(tables.batch(k, dtype)) for k in range(len(tables.ids))]
    pointer, rows = vectors.data_ptr(), tables.rows.data_ptr()
    size = library.workspace_bytes(tables.batch(0, dtype))
    workspace = torch.empty(size, dtype=torch.uint8, device="cuda")

    def ours(call, repeats=20):
        return median_seconds([lambda b=b: call(b) for b in batches], repeats)

    def peer(call):
        return median_seconds([lambda f=f: call(f) for f in tables.flat], repeats=10)

    yield (
        f"lookup {label}", vector_bytes + row_bytes,
        ours(lambda b: library.embedding_lookup(b, rows, pointer, stream)),
        peer(lambda flat: tables.rows[flat].to(kind)),
    )  # fmt: skip
    vectors.normal_()
    yield (
        f"SGD atomics {label}", vector_bytes + 2 * row_bytes,
        ours(lambda b: library.embedding_sgd(b, pointer, rows, step, stream)),
        peer(lambda flat: tables.rows.index_add_(0, flat, vectors.float(), alpha=-step)),
    )  # fmt: skip
    yield (
        f"SGD deterministic {label}", vector_bytes + 2 * row_bytes,
        ours(lambda b: library.embedding_sgd_sorted(
            b, pointer, rows, step, workspace.data_ptr(), size, stream
        )),
        None,
    )  # fmt: skip
    for row_wise in (1, 0):
        shape = (tables.total,) if row_wise else (tables.total, DIM)
        state = torch.rand(shape, device="cuda")
        place = state.data_ptr()
        state_bytes = 2 * tables.touched * (1 if row_wise else DIM) * 4
        yield (
            f"Adagrad{' row-wise' if row_wise else ''} {label}",
            vector_bytes + 2 * row_bytes + state_bytes,
            ours(functools.partial(_adagrad, library, pointer, rows, place, row_wise, step,
                                   workspace.data_ptr(), size, stream)),
            None,
        )  # fmt: skip
        del state


def _adagrad(library, gradients, rows, state, row_wise, rate, workspace, size, stream, batch):
    library.embedding_adagrad(
        batch, gradients, rows, state, row_wise, rate, 1.0, 1e-8, workspace, size, stream
    )


def table_rows(library, stream, sizes, distribution, label):
    """Yields the rows of all operations, and of the initialisation, on one set of tables."""
    tables = Tables(library, sizes, distribution)
    for dtype in (FLOAT32, FLOAT16):
        yield from embedding_rows(library, stream, tables, dtype, label)
    pointer, total = tables.rows.data_ptr(), tables.total

    def initialize():
        library.embedding_initialize(pointer, DIM, total, 0, 1, 3, 12345, 0.5, stream)

    yield f"initialise {label}", total * DIM * 4, median_seconds([initialize], repeats=10), None
    library.id_error_destroy(tables.error)


# Sizes of the 26 Criteo tables (hashed to at most 40 million rows), largest cut to 2 million so
# that tables and optimizer state fit a GPU of 40 GB.
CRITEO_CUT = [
    2_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63, 2_000_000, 2_000_000, 405_282,
    10, 2_209, 11_938, 155, 4, 976, 14, 2_000_000, 2_000_000, 2_000_000, 590_152, 12_973, 108, 36,
]  # fmt: skip


def rows(library, stream, part):
    """Yields (name, bytes, seconds, seconds of PyTorch's formulation or None)."""
    if part == "interaction":
        for dtype, mode in (
            (FLOAT16, ACCURATE), (BFLOAT16, ACCURATE), (FLOAT32, ACCURATE), (FLOAT32, TF32),
        ):  # fmt: skip
            yield from interaction_rows(library, stream, dtype, mode)
    elif part == "uniform":
        sizes = [600_000] * TABLES
        yield from table_rows(library, stream, sizes, "uniform", "26 x 600,000 rows")
    else:
        yield from table_rows(library, stream, CRITEO_CUT, "zipf", "Criteo sizes, Zipf ids")
