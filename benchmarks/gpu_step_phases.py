"""A training step on one GPU: this project's CUDA kernels plus cuBLAS, and PyTorch's own step.

PyTorch only provides buffers, streams and cuBLAS to `Step`: forward, backward and update are
written out. `PlainStep` is the same step as a PyTorch user would write it: eager, with autograd and
index_add_.

Shapes: B batch, T tables, D dimension. SGD with float32 master weights; float16 with a static loss
scale, or float32 with cuBLAS' TF32 products.
"""

# PyTorch is not installed in the project's default environment.
# pyright: reportMissingImports=false

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.gpu import launchers
from tests.gpu.memory import workspace
from tests.gpu.random_ids import draw_ids

DIM, DENSE, BOTTOM, TOP = 128, 13, (512, 256, 128), (1024, 1024, 512, 256, 1)
RATE = 0.01
#: {precision: (element type of the launchers, loss scale)}.
PRECISIONS = {"float16": (launchers.FLOAT16, 1024.0), "float32": (launchers.FLOAT32, 1.0)}


class Layer:
    """A linear layer: float32 master weights, and what products use: them, or a float16 copy."""

    def __init__(self, torch: Any, inputs: int, outputs: int, device: str, dtype: Any):
        deviation = (2.0 / (inputs + outputs)) ** 0.5
        self.master = torch.randn(inputs, outputs, device=device) * deviation
        self.master_bias = torch.zeros(outputs, device=device)
        self.weight, self.bias = self.master.to(dtype), self.master_bias.to(dtype)


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
    """

    def __init__(
        self, torch: Any, library: launchers.Library, sizes: Sequence[int], batch: int, seed: int,
        precision: str = "float16", device: str = "cuda",
    ):  # fmt: skip
        torch.manual_seed(seed)
        self.torch, self.library, self.batch, self.sizes = torch, library, batch, list(sizes)
        self.tables, self.device, self.precision = len(sizes), device, precision
        self._kind, self.scale = PRECISIONS[precision]
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
        # Padded from 13 to 16 features: cuBLAS' tensor-core kernels need aligned rows.
        self.dense = torch.zeros((batch, 16), **elements)
        self.dense[:, :DENSE] = torch.rand(batch, DENSE, device=device)
        self.label = (torch.rand(batch, 1, device=device) < 0.25).float()
        self.ids = torch.zeros((batch, self.tables), dtype=torch.int32, device=device)
        self.vectors = torch.empty((batch, self.tables, DIM), **elements)
        self.vector_gradients = torch.empty_like(self.vectors)
        self.bottom_gradient = torch.empty((batch, DIM), **elements)
        self.interacted = torch.empty((batch, width), **elements)
        self.bottom = self._layers(16, BOTTOM)
        self.top = self._layers(width, TOP)
        self.layers = [*self.bottom, *self.top]
        self._sizes, self._base = launchers.int64_array(sizes), launchers.int64_array(self.base)
        self._shape = launchers.InteractionShape(batch, features, DIM, self._kind)
        self.loss = torch.zeros((), device=device)
        self._kept: dict[str, Any] = {}
        self.gradients: dict[int, tuple[Any, Any]] = {}
        # The kernels read learning rate and scale from device memory, so a captured step follows
        # changes of them.
        self.rate_and_scale = torch.tensor([RATE, 1.0 / self.scale], device=device)
        self.deterministic = False
        # Allocated here: in a capture it would belong to the graph.
        needed = max(self._workspace_bytes(order) for order in (False, True))
        self._workspace = workspace(needed, device)

    def _layers(self, inputs, widths):
        return [Layer(self.torch, a, b, self.device, self.dtype)
                for a, b in zip((inputs, *widths), widths)]  # fmt: skip

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

    def _forward(self, layers, x, last_relu):
        outputs = [x]
        for index, layer in enumerate(layers):
            if last_relu or index < len(layers) - 1:
                # cuBLASLt fuses bias and ReLU into the product.
                x = self.torch._addmm_activation(layer.bias, x, layer.weight)
            else:
                x = self.torch.addmm(layer.bias, x, layer.weight)
            outputs.append(x)
        return outputs

    def _bottom_forward(self):
        self._kept["bottom"] = self._forward(self.bottom, self.dense, True)

    def _feature_rows(self, bottom, vectors):
        return launchers.FeatureRows(bottom.data_ptr(), vectors.data_ptr(), DIM, self.tables * DIM)

    def _interaction_forward(self):
        rows = self._feature_rows(self._kept["bottom"][-1], self.vectors)
        self.library.dot_interaction_forward(
            ctypes.byref(self._shape), rows, self.interacted.data_ptr(), self._stream()
        )

    def _top_forward(self):
        self._kept["top"] = self._forward(self.top, self.interacted, False)

    def _loss(self):
        logits = self._kept["top"][-1].float()
        functional = self.torch.nn.functional
        self.loss.copy_(functional.binary_cross_entropy_with_logits(logits, self.label))
        gradient = (logits.sigmoid() - self.label) * (self.scale / self.batch)
        self._kept["logit gradient"] = gradient.to(self.dtype)

    def _backward(self, layers, outputs, gradient, last_relu):
        """Returns the gradient of the first layer's input; stores the weights' gradients."""
        for index in reversed(range(len(layers))):
            if last_relu or index < len(layers) - 1:
                gradient = self.torch.ops.aten.threshold_backward(gradient, outputs[index + 1], 0)
            layer, x = layers[index], outputs[index]
            bias = gradient.sum(0, dtype=self.torch.float32)
            self.gradients[id(layer)] = (x.t() @ gradient, bias)
            if index or layers is self.top:
                gradient = gradient @ layer.weight.t()
        return gradient

    def _top_backward(self):
        self._kept["interacted gradient"] = self._backward(
            self.top, self._kept["top"], self._kept["logit gradient"], False
        )

    def _interaction_backward(self):
        self.library.dot_interaction_backward(
            ctypes.byref(self._shape), self._feature_rows(self._kept["bottom"][-1], self.vectors),
            self._kept["interacted gradient"].data_ptr(),
            self._feature_rows(self.bottom_gradient, self.vector_gradients), self._stream(),
        )  # fmt: skip

    def _row_update(self):
        self.library.embedding_update(
            ctypes.byref(self._batch_of_ids()), ctypes.byref(self._rule(self.deterministic)),
            self.vector_gradients.data_ptr(), self.rows.data_ptr(), self._workspace.data_ptr(),
            self._workspace.numel(), self._stream(),
        )  # fmt: skip

    def _bottom_backward(self):
        self._backward(self.bottom, self._kept["bottom"], self.bottom_gradient, True)

    def _dense_update(self):
        torch = self.torch
        masters, copies, gradients = [], [], []
        for layer in self.layers:
            masters += [layer.master, layer.master_bias]
            copies += [layer.weight, layer.bias]
            gradients += [gradient.float() for gradient in self.gradients[id(layer)]]
        torch._foreach_add_(masters, gradients, alpha=-RATE / self.scale)
        if self.dtype != torch.float32:
            torch._foreach_copy_(copies, masters)


class PlainStep:
    """The same step as a PyTorch user would write it, on a step's tables, inputs and weights."""

    def __init__(self, step: Step):
        torch = step.torch
        self.step, self.torch = step, torch
        self.offset = torch.from_numpy(step.base).to(step.device)
        pairs = torch.tril_indices(step.tables + 1, step.tables + 1, -1, device=step.device)
        self.pairs = (pairs[0], pairs[1])
        self.weights = [
            weight.clone().requires_grad_()
            for layer in step.layers
            for weight in (layer.master, layer.master_bias)
        ]

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
        bottom = self._mlp(step.dense, self.weights[:count], True)
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
    steps: int = 10, batch: int = 4096, device: str = "cuda",
) -> dict[str, float]:  # fmt: skip
    """Takes some steps of both kinds on small tables and compares their results.

    The arguments are `steps`, their number, and those of `Step`.

    Returns:
        {"loss": largest relative difference of a step's losses, "rows", "weights": norm of the
        difference over the norm of the change}.
    """
    sizes = [1000, 3, 50_000, 17] * 6 + [100, 9]
    ours, other = (Step(torch, library, sizes, batch, seed, precision, device) for _ in range(2))
    start, weight = ours.rows.clone(), ours.layers[3].master.clone()
    plain, worst = PlainStep(other), 0.0
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        ids = torch.from_numpy(draw_ids(generator, sizes, batch, "skewed"))
        for step in (ours, other):
            step.ids.copy_(ids)
        for phase in ours.phases().values():
            phase()
        plain()
        worst = max(worst, abs(float(ours.loss) / float(plain.loss) - 1))
    rows = (ours.rows - other.rows).norm() / (other.rows - start).norm()
    expected = plain.weights[6].detach()
    weights = (ours.layers[3].master - expected).norm() / (expected - weight).norm()
    return {"loss": worst, "rows": float(rows), "weights": float(weights)}
