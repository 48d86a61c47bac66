"""A training step on one GPU with this project's CUDA kernels, and PyTorch's own step.

PyTorch only provides buffers and streams to `Step`, and cuBLASLt: forward, backward and update are
the launchers that the trainer uses. With the dense part "PyTorch's products", MLPs, loss and dense
update are PyTorch's instead. `PlainStep` is the same step as a PyTorch user would write it: eager,
with autograd and index_add_.

Shapes: B batch, T tables, D dimension. SGD with float32 master weights; float16 with a static loss
scale, or float32 with TF32 products.
"""

# PyTorch is not installed in the project's default environment.
# pyright: reportMissingImports=false

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu_step_dense import PADDED, DensePart, FusedPart, TorchPart, Weights
from tests.gpu import launchers
from tests.gpu.memory import workspace
from tests.gpu.random_ids import draw_ids

DIM, DENSE, BOTTOM, TOP = 128, 13, (512, 256, 128), (1024, 1024, 512, 256, 1)
RATE = 0.01
#: {precision: (element type of the launchers, loss scale)}.
PRECISIONS = {"float16": (launchers.FLOAT16, 1024.0), "float32": (launchers.FLOAT32, 1.0)}


#: What computes the dense part of a step: this project's launchers, or PyTorch.
FUSED, TORCH = "fused", "PyTorch's products"


class Step:
    """One training step over fixed buffers; every method of `phases` is a phase of it.

    Args:
        torch: the PyTorch module.
        library: the project's launchers.
        sizes: rows of each table.
        batch: number of samples.
        seed: seed of weights and inputs.
        precision: key of `PRECISIONS`.
        device: "cuda", or "cpu" with the emulated library.
        tf32: whether float32 products of the fused dense part round operands to TF32. PyTorch's
            do so on GPUs, as `tests.gpu.clock.use_tf32` selects.
    """

    def __init__(
        self, torch: Any, library: launchers.Library, sizes: Sequence[int], batch: int, seed: int,
        precision: str = "float16", device: str = "cuda", tf32: bool = True,
    ):  # fmt: skip
        torch.manual_seed(seed)
        self.torch, self.library, self.batch, self.sizes = torch, library, batch, list(sizes)
        self.tables, self.device, self.precision = len(sizes), device, precision
        self._kind, self.scale = PRECISIONS[precision]
        self._tf32 = tf32
        self.dtype = getattr(torch, precision)
        self.base = np.cumsum(np.r_[0, sizes])[:-1]
        total = int(np.sum(sizes))
        self.rows = torch.empty((total, DIM), device=device)
        library.embedding_initialize(
            self.rows.data_ptr(), DIM, total, 0, 1, 0, seed, 0.01, self._stream()
        )
        features = self.tables + 1
        width = library.width(features, DIM)
        elements = {"device": device, "dtype": self.dtype}
        self.padded_dense = torch.zeros((batch, PADDED), **elements)
        self.padded_dense[:, :DENSE] = torch.rand(batch, DENSE, device=device)
        self.dense = self.padded_dense[:, :DENSE].contiguous()
        self.label = (torch.rand(batch, 1, device=device) < 0.25).float()
        self.ids = torch.zeros((batch, self.tables), dtype=torch.int32, device=device)
        self.vectors = torch.empty((batch, self.tables, DIM), **elements)
        self.vector_gradients = torch.empty_like(self.vectors)
        self.bottom_gradient = torch.empty((batch, DIM), **elements)
        self.interacted = torch.empty((batch, width), **elements)
        self.weights = Weights(torch, (DENSE, *BOTTOM), (width, *TOP), device)
        self._sizes, self._base = launchers.int64_array(sizes), launchers.int64_array(self.base)
        self._shape = launchers.InteractionShape(batch, features, DIM, self._kind)
        # The kernels read learning rate and scale from device memory, so a captured step follows
        # changes of them.
        self.rate_and_scale = torch.tensor([RATE, 1.0 / self.scale], device=device)
        self.deterministic = False
        self._loss_scale = torch.full((1,), self.scale, device=device)
        self._parts: dict[str, DensePart] = {}
        self.use(FUSED)
        self._side = torch.cuda.Stream() if device == "cuda" else None
        # Allocated here: in a capture it would belong to the graph.
        needed = max(self._workspace_bytes(order) for order in (False, True))
        self._workspace = workspace(needed, device)

    def use(self, dense_part: str) -> None:
        """Selects what computes the dense part: `FUSED` or `TORCH`, on the same weights."""
        if dense_part in self._parts:
            return
        self._parts.clear()  # first: both need much memory
        if dense_part == FUSED:
            part: DensePart = FusedPart(
                self.library, self.weights, self.dense, self.label, self._kind,
                self.rate_and_scale, self._loss_scale, self._tf32,
            )  # fmt: skip
        else:
            part = TorchPart(
                self.torch, self.weights, self.padded_dense, self.label, self.dtype, RATE,
                self.scale,
            )  # fmt: skip
        self._parts[dense_part] = part

    @property
    def _dense(self) -> DensePart:
        return next(iter(self._parts.values()))

    @property
    def loss(self) -> Any:
        """The mean loss of the last step, one element."""
        return self._dense.mean_loss

    def _stream(self):
        return self.torch.cuda.current_stream().cuda_stream if self.device == "cuda" else None

    def _batch_of_ids(self):
        return launchers.EmbeddingBatch(
            self.batch, self.tables, DIM, self.rows.shape[0], self.ids.data_ptr(), self._base,
            self._sizes, self.library.id_error, 0, self._kind,
        )  # fmt: skip

    def _rule(self, deterministic):
        return self.library.rule("sgd", self.rate_and_scale.data_ptr(), deterministic=deterministic)

    def _workspace_bytes(self, deterministic):
        return self.library.workspace_bytes(self._batch_of_ids(), self._rule(deterministic))

    def phases(self) -> dict[str, Callable[[], None]]:
        """Returns the step as {name: phase}, in order."""
        phases = (
            self._lookup, self._bottom_forward, self._interaction_forward, self._top_forward,
            self._loss, self._top_backward, self._interaction_backward, self._row_update,
            self._bottom_backward, self._dense_update,
        )  # fmt: skip
        return {phase.__name__[1:].replace("_", " "): phase for phase in phases}

    def _lookup(self):
        self.library.embedding_lookup(
            ctypes.byref(self._batch_of_ids()), self.rows.data_ptr(), self.vectors.data_ptr(),
            self._stream(),
        )  # fmt: skip

    def overlapped(self, beside: Sequence[str]) -> list[Callable[[], None]]:
        """Returns the phases in order, with row phases on a stream of their own.

        Args:
            beside: "lookup" (while the bottom MLP runs), "row update" (while the phases after it
                run), or both.
        """
        phases = self.phases()
        names, found = list(phases), []
        while names:
            name = names.pop(0)
            if name not in beside:
                found.append(phases[name])
                continue
            # The next phase needs no result of the lookup; none after it needs the row update's.
            count = 1 if name == "lookup" else len(names)
            others = [phases[names.pop(0)] for _ in range(count)]
            found.append(functools.partial(self._beside, phases[name], others))
        return found

    def _beside(self, phase, others):
        """Runs a phase on the side stream while others run; on a CPU one after the other."""
        if self._side is None:
            for run in (phase, *others):
                run()
            return
        current = self.torch.cuda.current_stream()
        self._side.wait_stream(current)
        with self.torch.cuda.stream(self._side):
            phase()
        for run in others:
            run()
        current.wait_stream(self._side)

    def _bottom_forward(self):
        self._dense.bottom_forward()

    def _feature_rows(self, bottom, vectors):
        return launchers.FeatureRows(bottom.data_ptr(), vectors.data_ptr(), DIM, self.tables * DIM)

    def _interaction_forward(self):
        rows = self._feature_rows(self._dense.bottom, self.vectors)
        self.library.dot_interaction_forward(
            ctypes.byref(self._shape), rows, self.interacted.data_ptr(), self._stream()
        )

    def _top_forward(self):
        self._dense.top_forward(self.interacted)

    def _loss(self):
        self._dense.loss()

    def _top_backward(self):
        self._dense.top_backward(self.interacted)

    def _interaction_backward(self):
        self.library.dot_interaction_backward(
            ctypes.byref(self._shape), self._feature_rows(self._dense.bottom, self.vectors),
            self._dense.interacted_gradient.data_ptr(),
            self._feature_rows(self.bottom_gradient, self.vector_gradients), self._stream(),
        )  # fmt: skip

    def _row_update(self):
        self.library.embedding_update(
            ctypes.byref(self._batch_of_ids()), ctypes.byref(self._rule(self.deterministic)),
            self.vector_gradients.data_ptr(), self.rows.data_ptr(), self._workspace.data_ptr(),
            self._workspace.numel(), self._stream(),
        )  # fmt: skip

    def _bottom_backward(self):
        self._dense.bottom_backward(self.bottom_gradient)

    def _dense_update(self):
        self._dense.update()


class PlainStep:
    """The same step as a PyTorch user would write it, on a step's tables, inputs and weights."""

    def __init__(self, step: Step):
        torch = step.torch
        self.step, self.torch = step, torch
        self.offset = torch.from_numpy(step.base).to(step.device)
        pairs = torch.tril_indices(step.tables + 1, step.tables + 1, -1, device=step.device)
        self.pairs = (pairs[0], pairs[1])
        kernels = [kernel.clone() for kernel in step.weights.kernels]
        # Rows of zeros for the padding, which stay: its gradients are 0.
        kernels[0] = torch.nn.functional.pad(kernels[0], (0, 0, 0, PADDED - DENSE))
        biases = [bias.clone() for bias in step.weights.biases]
        self.weights = [weight.requires_grad_() for pair in zip(kernels, biases) for weight in pair]

    def _mlp(self, x, weights, last_relu):
        for index in range(0, len(weights), 2):
            weight, bias = (w.to(self.step.dtype) for w in weights[index : index + 2])
            x = self.torch.addmm(bias, x, weight)
            if last_relu or index < len(weights) - 2:
                x = self.torch.relu(x)
        return x

    def __call__(self) -> None:
        """Takes one step."""
        torch, step = self.torch, self.step
        flat = (step.ids.long() + self.offset).reshape(-1)
        vectors = step.rows[flat].to(step.dtype).reshape(step.batch, step.tables, DIM)
        vectors.requires_grad_()
        count = 2 * len(BOTTOM)
        bottom = self._mlp(step.padded_dense, self.weights[:count], True)
        features = torch.cat([bottom[:, None], vectors], 1)
        products = torch.bmm(features, features.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        gap = step.interacted.shape[1] - DIM - products.shape[1]
        padding = torch.zeros((step.batch, gap), device=step.device, dtype=step.dtype)
        logits = self._mlp(
            torch.cat([bottom, products, padding], 1), self.weights[count:], False
        ).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, step.label)
        *gradients, vector_gradients = torch.autograd.grad(
            loss * step.scale, [*self.weights, vectors]
        )
        self.loss = loss.detach()
        with torch.no_grad():
            torch._foreach_add_(self.weights, gradients, alpha=-RATE / step.scale)
            step.rows.index_add_(
                0, flat, vector_gradients.reshape(-1, DIM).float(), alpha=-RATE / step.scale
            )


def parity(
    torch: Any, library: launchers.Library, seed: int, precision: str = "float16",
    steps: int = 10, batch: int = 4096, device: str = "cuda", tf32: bool = True,
    dense_part: str = FUSED, beside: Sequence[str] = (),
) -> dict[str, float]:  # fmt: skip
    """Takes some steps of both kinds on small tables and compares their results.

    The arguments are `steps`, their number, those of `Step`, of `Step.use` and `Step.overlapped`.

    Returns:
        {"loss": largest relative difference of a step's losses, "rows", "weights": norm of the
        difference over the norm of the change}.
    """
    sizes = [1000, 3, 50_000, 17] * 6 + [100, 9]
    ours, other = (
        Step(torch, library, sizes, batch, seed, precision, device, tf32) for _ in range(2)
    )
    ours.use(dense_part)
    start, weights = ours.rows.clone(), [kernel.clone() for kernel in ours.weights.kernels]
    plain, worst = PlainStep(other), 0.0
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        ids = torch.from_numpy(draw_ids(generator, sizes, batch, "skewed"))
        for step in (ours, other):
            step.ids.copy_(ids)
        for phase in ours.overlapped(beside):
            phase()
        plain()
        worst = max(worst, abs(float(ours.loss) / float(plain.loss) - 1))

    def difference(found, expected, before):
        return float((found - expected).norm() / (expected - before).norm())

    kernels = [weight.detach() for weight in plain.weights[::2]]
    kernels[0] = kernels[0][:DENSE]
    return {
        "loss": worst,
        "rows": difference(ours.rows, other.rows, start),
        "weights": max(map(difference, ours.weights.kernels, kernels, weights)),
    }
