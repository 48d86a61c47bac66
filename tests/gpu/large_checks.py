"""Checks with more than 2^31 elements, on a GPU with enough free memory (buffers by PyTorch)."""

import ctypes

import numpy as np

from tests.gpu import reference
from tests.gpu.interaction_checks import MismatchError
from tests.gpu.launchers import (
    FLOAT16,
    EmbeddingBatch,
    FeatureRows,
    InteractionShape,
    int64_array,
)

_ROWS, _DIM, _TABLES = 18_000_000, 128, 3  # 2.3e9 elements, 9.2 GB
_BATCH = 5_700_000  # x 3 x 128 = 2.2e9 elements, 4.4 GB in float16
_SAMPLES = 640_000  # x 27 x 128 = 2.2e9 elements


def embedding(library, memory):
    """Initialises, looks up and updates rows whose offsets exceed 32 bits."""

    def run(rng):
        import torch

        memory.require_free(24e9)
        torch.manual_seed(int(rng.integers(2**62)))
        rows = torch.empty((_ROWS, _DIM), dtype=torch.float32, device="cuda")
        seed, limit = int(rng.integers(2**62)), 0.5
        library.embedding_initialize(
            rows.data_ptr(), _DIM, _ROWS, 0, 1, 4, seed, limit, memory.stream
        )
        sizes = [10, _ROWS - 1_000_010, 1_000_000]
        base = [0, 10, _ROWS - 1_000_000]
        ids = torch.stack(
            [torch.randint(0, size, (_BATCH,), device="cuda") for size in sizes], dim=1
        )
        ids[-1] = torch.tensor(sizes, device="cuda") - 1
        out = torch.full((_BATCH, _TABLES, _DIM), torch.nan, dtype=torch.float16, device="cuda")
        batch = EmbeddingBatch(
            _BATCH, _TABLES, _DIM, _ROWS, ids.data_ptr(), int64_array(base), int64_array(sizes),
            library.id_error, 1, FLOAT16,
        )  # fmt: skip
        library.embedding_lookup(
            ctypes.byref(batch), rows.data_ptr(), out.data_ptr(), memory.stream
        )
        places = np.unique(np.r_[0, _BATCH - 1, rng.integers(0, _BATCH, 2000)])
        picked = torch.from_numpy(places).cuda()
        numbers = ids[picked].cpu().numpy() + np.asarray(base)
        expected = reference.initial_rows(numbers.reshape(-1), _DIM, 4, seed, limit)
        found = out[picked].cpu().numpy().reshape(-1, _DIM)
        if not np.array_equal(found, expected.astype(np.float16)):
            raise MismatchError("lookup: vectors differ from the initial values")
        # Each gradient is the looked-up vector: known later from the seed, without storing it.
        step = torch.tensor([1.0, 1.0], device="cuda")
        rule = library.rule("sgd", step.data_ptr(), deterministic=False)
        size = library.workspace_bytes(batch, rule)
        workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
        library.embedding_update(
            ctypes.byref(batch), ctypes.byref(rule), out.data_ptr(), rows.data_ptr(),
            workspace.data_ptr(), size, memory.stream,
        )  # fmt: skip
        counts = torch.zeros(_ROWS, dtype=torch.int32, device="cuda")
        flat = (ids + torch.tensor(base, device="cuda")).reshape(-1)
        counts.index_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
        unique = np.unique(numbers)
        unique = unique[unique >= 10]  # rows of the tiny table sum too many gradients
        times = counts[torch.from_numpy(unique).cuda()].cpu().numpy()[:, None]
        start = reference.initial_rows(unique, _DIM, 4, seed, limit).astype(np.float64)
        wanted = start - times * start.astype(np.float16).astype(np.float64)
        now = rows[torch.from_numpy(unique).cuda()].cpu().numpy()
        ratio = np.abs(now - wanted) / (2.0**-23 * (times + 2) * np.abs(start) * (times + 1) + 1e-9)
        if not ratio.max() <= 1:
            raise MismatchError(f"update: error {ratio.max():.3g} times its limit")
        return len(places), float(ratio.max())

    return run


def interaction(library, memory):
    """Runs forward and backward on more than 2^31 elements."""

    def run(rng):
        import torch

        memory.require_free(24e9)
        torch.manual_seed(int(rng.integers(2**62)))
        batch, features, dim = _SAMPLES, 27, 128
        width = library.width(features, dim)
        x = torch.randn((batch, features, dim), dtype=torch.float16, device="cuda")
        shape = InteractionShape(batch, features, dim, FLOAT16)
        place = FeatureRows.of_one_tensor(x.data_ptr(), features, dim, 2)
        upstream = torch.randn((batch, width), dtype=torch.float16, device="cuda")
        results = []
        for _ in range(2):  # a race is unlikely to give the same result twice
            out, grad = torch.full_like(upstream, torch.nan), torch.full_like(x, torch.nan)
            there = FeatureRows.of_one_tensor(grad.data_ptr(), features, dim, 2)
            library.dot_interaction_forward(
                ctypes.byref(shape), place, out.data_ptr(), memory.stream
            )
            library.dot_interaction_backward(
                ctypes.byref(shape), place, upstream.data_ptr(), there, memory.stream
            )
            if not (torch.isfinite(out).all() and torch.isfinite(grad).all()):
                raise MismatchError("some elements were not written or are not finite")
            results.append((out, grad))
        (out, grad), (again, grad_again) = results
        moved = int((again != out).sum()), int((grad_again != grad).sum())
        if moved != (0, 0):
            raise MismatchError(
                f"{moved[0]} elements forward and {moved[1]} backward differ between two runs"
            )
        places = np.unique(np.r_[0, batch - 1, rng.integers(0, batch, 500)])
        picked = torch.from_numpy(places).cuda()
        values = x[picked].cpu().numpy().astype(np.float64)
        expected, _ = reference.interaction(values)
        got = out[picked].cpu().numpy().astype(np.float64)
        forward = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        gradient, _ = reference.interaction_gradient(
            values, upstream[picked].cpu().numpy().astype(np.float64)
        )
        got = grad[picked].cpu().numpy().astype(np.float64)
        backward = np.linalg.norm(got - gradient) / np.linalg.norm(gradient)
        if not max(forward, backward) <= 4e-4:
            raise MismatchError(f"relative error {forward:.2e} forward, {backward:.2e} backward")
        return len(places), max(forward, backward) / 4e-4

    return run


def checks(library, memory, _large):
    """Yields (name, function of a random generator that returns (cases, largest error / limit))."""
    yield "embedding beyond 2^31 elements", embedding(library, memory)
    yield "dot interaction beyond 2^31 elements", interaction(library, memory)
