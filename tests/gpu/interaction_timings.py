"""Timings of the dot interaction and of PyTorch's equivalent.

Bytes are the minimum traffic of an operation: each input read once, each output written once.
Inputs are random, for large batches many times the L2 cache, and differ from call to call.
"""

import ctypes
import functools

from tests.gpu.clock import entry, torch_dtype, use_tf32
from tests.gpu.launchers import (
    BFLOAT16,
    DTYPE_NAMES,
    FLOAT16,
    FLOAT32,
    FeatureRows,
    InteractionShape,
)

BATCH, FEATURES, DIM = 65_536, 27, 128
OTHER_BATCHES = (2048, 8192, 262_144)
GOAL = 0.8  # share of the copy bandwidth, float16 at BATCH
CASES = (
    *((BATCH, dtype) for dtype in (FLOAT16, BFLOAT16, FLOAT32)),
    *((batch, FLOAT16) for batch in OTHER_BATCHES),
)


@functools.lru_cache(maxsize=1)
def _buffers(batch, dtype, width):
    """Returns several sets of (features, upstream gradient, output, gradient of the features)."""
    import torch

    kind, sets = torch_dtype(dtype), []
    for _ in range(2 if batch >= BATCH else 8):
        x = torch.randn((batch, FEATURES, DIM), device="cuda").to(kind)
        upstream = torch.randn((batch, width), device="cuda").to(kind)
        sets.append((x, upstream, torch.empty_like(upstream), torch.empty_like(x)))
    return sets


def _formulation(x, rows, columns, padding):
    import torch

    products = torch.bmm(x, x.transpose(1, 2))[:, rows, columns]
    return torch.cat([x[:, 0], products, padding], dim=1)


def _peer(sets, backward):
    """Returns PyTorch's calls for the same inputs: bmm, gather and cat, or their gradient."""
    import torch

    x, upstream = sets[0][:2]
    rows, columns = torch.tril_indices(FEATURES, FEATURES, -1, device="cuda")
    gap = upstream.shape[1] - DIM - len(rows)
    padding = torch.zeros((x.shape[0], gap), device="cuda", dtype=x.dtype)
    if not backward:
        return [lambda x=x: _formulation(x, rows, columns, padding) for x, *_ in sets]
    leaves = [x.detach().requires_grad_() for x, *_ in sets]
    outputs = [_formulation(leaf, rows, columns, padding) for leaf in leaves]
    return [
        lambda k=k: torch.autograd.grad(outputs[k], leaves[k], sets[k][1], retain_graph=True)
        for k in range(len(sets))
    ]


def _interaction(library, stream, batch, dtype, backward):
    use_tf32(False)
    shape = InteractionShape(batch, FEATURES, DIM, dtype)
    width = library.width(FEATURES, DIM)
    sets = _buffers(batch, dtype, width)
    size = sets[0][0].element_size()

    def place(tensor):
        return FeatureRows.of_one_tensor(tensor.data_ptr(), FEATURES, DIM, size)

    def run(x, upstream, output, gradient):
        if backward:
            library.dot_interaction_backward(
                ctypes.byref(shape), place(x), upstream.data_ptr(), place(gradient), stream
            )
        else:
            library.dot_interaction_forward(
                ctypes.byref(shape), place(x), output.data_ptr(), stream
            )

    main = batch == BATCH
    return entry(
        library,
        batch * size * ((1 + backward) * FEATURES * DIM + width),
        [functools.partial(run, *buffers) for buffers in sets],
        functools.partial(_peer, sets, backward) if main else None,
        GOAL if main and dtype == FLOAT16 else None,
    )


def entries(library, stream, seed):
    """Returns [(name, function that returns a result for JSON)]."""
    import torch

    torch.manual_seed(seed)
    listed = []
    for batch, dtype in CASES:
        label = DTYPE_NAMES[dtype] + (f", batch {batch:,}" if batch != BATCH else "")
        for backward in (False, True):
            name = f"dot interaction {'backward' if backward else 'forward'} {label}"
            listed.append((name, functools.partial(
                _interaction, library, stream, batch, dtype, backward
            )))  # fmt: skip
    return listed
