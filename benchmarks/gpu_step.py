"""Times a complete training step on one GPU: this project's CUDA kernels plus cuBLAS.

    python3 -m benchmarks.gpu_step [--batch 65536] [--vocabulary mlperf] [--json FILE]

Needs PyTorch with CUDA, and nvcc or an existing library (`--library`); no TensorFlow. PyTorch only
provides buffers, streams and cuBLAS: forward, backward and update are written out, captured in a
CUDA graph and replayed. The result is the speed that a step can reach with these kernels. Each
phase is timed alone, and by how much faster the step is without it. For comparison the same step is
timed as a PyTorch user would write it: eager, with autograd and index_add_.

Shapes: B batch, T tables, D dimension. Float16 with float32 master weights, SGD, loss scale 1024.
"""

# PyTorch is not installed in the project's default environment.
# pyright: reportMissingImports=false

from __future__ import annotations

import argparse
import ctypes
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from planner.published_runs import VOCABULARIES
from tests.gpu import build, launchers
from tests.gpu.clock import device_state

DIM, DENSE, BOTTOM, TOP = 128, 13, (512, 256, 128), (1024, 1024, 512, 256, 1)
RATE, SCALE = 0.01, 1024.0
ID_SETS = 4
#: Exponent of the skewed ids. As in click logs, a few rows get most of the lookups.
EXPONENT = 1.2


class Layer:
    """A linear layer: float32 master weights and the float16 copy used in products."""

    def __init__(self, torch: Any, inputs: int, outputs: int, device: str):
        deviation = (2.0 / (inputs + outputs)) ** 0.5
        self.master = torch.randn(inputs, outputs, device=device) * deviation
        self.master_bias = torch.zeros(outputs, device=device)
        self.weight, self.bias = self.master.half(), self.master_bias.half()


class Step:
    """One training step over fixed buffers; every method of `phases` is a phase of it.

    Args:
        torch: the PyTorch module.
        library: the project's launchers.
        sizes: rows of each table.
        batch: number of samples.
        seed: seed of weights and inputs.
        device: "cuda", or "cpu" with the emulated library.
    """

    def __init__(
        self, torch: Any, library: launchers.Library, sizes: Sequence[int], batch: int, seed: int,
        device: str = "cuda",
    ):  # fmt: skip
        torch.manual_seed(seed)
        self.torch, self.library, self.batch, self.sizes = torch, library, batch, list(sizes)
        self.tables, self.device = len(sizes), device
        self.base = np.cumsum(np.r_[0, sizes])[:-1]
        total = int(np.sum(sizes))
        self.rows = torch.empty((total, DIM), device=device)
        library.embedding_initialize(
            self.rows.data_ptr(), DIM, total, 0, 1, 0, seed, 0.01, self._stream()
        )
        features = self.tables + 1
        width = library.width(features, DIM)
        half = {"device": device, "dtype": torch.float16}
        # Padded from 13 to 16 features: cuBLAS' tensor-core kernels need 16-byte rows.
        self.dense = torch.zeros((batch, 16), **half)
        self.dense[:, :DENSE] = torch.rand(batch, DENSE, device=device)
        self.label = (torch.rand(batch, 1, device=device) < 0.25).float()
        self.ids = torch.zeros((batch, self.tables), dtype=torch.int32, device=device)
        self.vectors = torch.empty((batch, self.tables, DIM), **half)
        self.vector_gradients = torch.empty_like(self.vectors)
        self.bottom_gradient = torch.empty((batch, DIM), **half)
        self.interacted = torch.empty((batch, width), **half)
        self.bottom = self._layers(16, BOTTOM)
        self.top = self._layers(width, TOP)
        self.layers = [*self.bottom, *self.top]
        self._sizes, self._base = launchers.int64_array(sizes), launchers.int64_array(self.base)
        self._shape = launchers.InteractionShape(batch, features, DIM, launchers.FLOAT16)
        self.loss = torch.zeros((), device=device)
        self._kept: dict[str, Any] = {}
        self.gradients: dict[int, tuple[Any, Any]] = {}
        self.deterministic = False
        self._workspace = torch.empty(0, dtype=torch.uint8, device=device)
        self._step = torch.tensor([RATE, 1.0 / SCALE], device=device)

    def _layers(self, inputs, widths):
        return [Layer(self.torch, a, b, self.device) for a, b in zip((inputs, *widths), widths)]

    def _stream(self):
        return self.torch.cuda.current_stream().cuda_stream if self.device == "cuda" else None

    def _batch_of_ids(self):
        return launchers.EmbeddingBatch(
            self.batch, self.tables, DIM, self.rows.shape[0], self.ids.data_ptr(), self._base,
            self._sizes, self.library.id_error, 0, launchers.FLOAT16,
        )  # fmt: skip

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
        gradient = (logits.sigmoid() - self.label) * (SCALE / self.batch)
        self._kept["logit gradient"] = gradient.half()

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
        rule = self.library.rule("sgd", self._step.data_ptr(), deterministic=self.deterministic)
        ids = self._batch_of_ids()
        size = self.library.workspace_bytes(ids, rule)
        if self._workspace.numel() < size:
            self._workspace = self.torch.empty(size, dtype=self.torch.uint8, device=self.device)
        self.library.embedding_update(
            ctypes.byref(ids), ctypes.byref(rule), self.vector_gradients.data_ptr(),
            self.rows.data_ptr(), self._workspace.data_ptr() if size else None, size,
            self._stream(),
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
        torch._foreach_add_(masters, gradients, alpha=-RATE / SCALE)
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
            x = self.torch.addmm(weights[index + 1].half(), x, weights[index].half())
            if last_relu or index < len(weights) - 2:
                x = self.torch.relu(x)
        return x

    def __call__(self) -> None:
        """Takes one step."""
        torch, step = self.torch, self.step
        flat = (step.ids.long() + self.offset).reshape(-1)
        vectors = step.rows[flat].half().reshape(step.batch, step.tables, DIM).requires_grad_()
        count = 2 * len(BOTTOM)
        bottom = self._mlp(step.dense, self.weights[:count], True)
        features = torch.cat([bottom[:, None], vectors], 1)
        products = torch.bmm(features, features.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        gap = step.interacted.shape[1] - DIM - products.shape[1]
        padding = torch.zeros((step.batch, gap), device=step.device, dtype=torch.float16)
        logits = self._mlp(
            torch.cat([bottom, products, padding], 1), self.weights[count:], False
        ).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, step.label)
        *gradients, vector_gradients = torch.autograd.grad(loss * SCALE, [*self.weights, vectors])
        self.loss = loss.detach()
        with torch.no_grad():
            torch._foreach_add_(self.weights, gradients, alpha=-RATE / SCALE)
            step.rows.index_add_(
                0, flat, vector_gradients.reshape(-1, DIM).float(), alpha=-RATE / SCALE
            )


def draw_ids(
    generator: np.random.Generator, sizes: Sequence[int], batch: int, kind: str
) -> np.ndarray:
    """Returns int32 ids [B, T]; kind is "uniform", or "skewed" for a Zipf distribution."""
    shape = (batch, len(sizes))
    if kind == "uniform":
        return generator.integers(0, sizes, shape).astype(np.int32)
    # Scatters popular ids over the table, like hashed ids.
    popularity = generator.zipf(EXPONENT, shape) % np.asarray(sizes)
    return (popularity * 7_919 % np.asarray(sizes)).astype(np.int32)


def captured(torch: Any, phases: Sequence[Callable[[], None]]) -> Callable[[], None]:
    """Captures phases in a CUDA graph; returns the function that replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # first launches load kernels, which is not allowed in a capture
            for phase in phases:
                phase()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for phase in phases:
            phase()
    return graph.replay


def milliseconds(
    torch: Any, call: Callable[[], None], before: Callable[[int], None], repeats: int
) -> float:
    """Returns the median time of a call, without the preceding `before(k)`."""
    times = []
    for k in range(repeats + 3):
        before(k)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        times.append((begin, end))
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in times[3:])


def parity(
    torch: Any, library: launchers.Library, seed: int, batch: int = 4096, device: str = "cuda"
) -> dict[str, float]:
    """Takes ten steps of both kinds on small tables and compares their results.

    The arguments are those of `Step`.

    Returns:
        {"loss": largest relative difference of a step's losses, "rows", "weights": norm of the
        difference over the norm of the change}.
    """
    sizes = [1000, 3, 50_000, 17] * 6 + [100, 9]
    steps = [Step(torch, library, sizes, batch, seed, device) for _ in range(2)]
    start, weight = steps[0].rows.clone(), steps[0].layers[3].master.clone()
    plain, worst = PlainStep(steps[1]), 0.0
    generator = np.random.default_rng(seed)
    for _ in range(10):
        ids = torch.from_numpy(draw_ids(generator, sizes, batch, "skewed"))
        for step in steps:
            step.ids.copy_(ids)
        for phase in steps[0].phases().values():
            phase()
        plain()
        worst = max(worst, abs(float(steps[0].loss) / float(plain.loss) - 1))
    rows = (steps[0].rows - steps[1].rows).norm() / (steps[1].rows - start).norm()
    ours, theirs = steps[0].layers[3].master, plain.weights[6].detach()
    weights = (ours - theirs).norm() / (theirs - weight).norm()
    return {"loss": worst, "rows": float(rows), "weights": float(weights)}


def measure(step: Step, kind: str, repeats: int, generator: np.random.Generator) -> dict[str, Any]:
    """Times the step, its phases and PyTorch's step on ids of one kind, in milliseconds."""
    torch = step.torch
    sets = [
        torch.from_numpy(draw_ids(generator, step.sizes, step.batch, kind)).cuda()
        for _ in range(ID_SETS)
    ]

    def next_ids(k):
        step.ids.copy_(sets[k % ID_SETS])

    def time(names):
        graph = captured(torch, [phases[name] for name in names])
        return milliseconds(torch, graph, next_ids, repeats)

    phases = step.phases()
    step.deterministic = False
    result: dict[str, Any] = {"ids": kind, "step": time(phases), "pieces": {}}
    for name in phases:
        rest = time([other for other in phases if other != name])
        result["pieces"][name] = {"alone": time([name]), "of the step": result["step"] - rest}
    step.deterministic = True
    result["step, sorted update"] = time(phases)
    step.deterministic = False
    for phase in phases.values():
        phase()
    plain = PlainStep(step)
    try:
        result["PyTorch"] = milliseconds(torch, plain, next_ids, max(5, repeats // 4))
    except torch.cuda.OutOfMemoryError as error:
        result["PyTorch error"] = str(error).partition("\n")[0]
    return result


def show(result: dict[str, Any], batch: int) -> None:
    """Prints the times for one kind of ids."""
    print(f"\n{result['ids']} ids, ms: phase alone, and the step's time minus the step without it")
    for name, times in result["pieces"].items():
        print(f"  {name:22} {times['alone']:7.3f} {times['of the step']:7.3f}")
    for name in ("step", "step, sorted update", "PyTorch"):
        if name in result:
            rate = batch / result[name] / 1e3
            print(f"  {name:22} {result[name]:7.3f} ms {rate:8.2f} M samples/s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=65_536, help="samples per step")
    parser.add_argument("--vocabulary", choices=sorted(VOCABULARIES), default="mlperf")
    parser.add_argument("--repeats", type=int, default=40, help="timed calls per measurement")
    parser.add_argument("--library", type=pathlib.Path, help="built launchers (default: build)")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and inputs")
    parser.add_argument("--json", type=pathlib.Path, help="also write all numbers to this file")
    options = parser.parse_args(arguments)
    try:
        import torch
    except ImportError:
        sys.exit("gpu_step: PyTorch is not installed; try `pip install torch`")
    if not torch.cuda.is_available():
        sys.exit("gpu_step: PyTorch finds no CUDA device")
    path = options.library
    if path is None:
        path, _ = build.build_for_gpu(build.architecture_for(torch.cuda.get_device_capability()), 8)
    library = launchers.Library(path)
    sizes = VOCABULARIES[options.vocabulary]
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "before": device_state(), "batch": options.batch, "vocabulary": options.vocabulary,
        "table_bytes": 4 * DIM * sum(sizes), "precision": "float16", "steps": [],
    }  # fmt: skip
    report["parity"] = parity(torch, library, options.seed)
    print("difference from PyTorch after ten steps:", report["parity"], flush=True)
    step = Step(torch, library, sizes, options.batch, options.seed)
    generator = np.random.default_rng(options.seed)
    for kind in ("uniform", "skewed"):
        result = measure(step, kind, options.repeats, generator)
        report["steps"].append(result)
        show(result, options.batch)
        report["peak_bytes"] = torch.cuda.max_memory_allocated()
        if options.json is not None:
            options.json.write_text(json.dumps(report, indent=1))
    print(f"peak memory {report['peak_bytes'] / 2**30:.1f} GiB")
    bad = library.take_id_error()
    if bad is not None:
        sys.exit("gpu_step: table {}, sample {}: id {} is not in [0, {})".format(*bad))
    return 0


if __name__ == "__main__":
    sys.exit(main())
