"""Random MLPs whose products have exact sums, run by the launchers and in float64.

Inputs are small multiples of powers of two: every sum of products is exact in float32 in any
order, so results equal the reference bit for bit. It rounds where the launchers do: weights,
activations and gradients of activations, to the MLP's type.
"""

import dataclasses

import numpy as np

from tests.gpu import launchers, reference
from tests.gpu.launchers import FLOAT32


@dataclasses.dataclass
class Results:
    """Arrays in float64; per layer where lists."""

    y: np.ndarray
    hidden: list
    x_gradient: np.ndarray | None = None
    kernel_gradients: list | None = None
    bias_gradients: list | None = None


def rounded(values, dtype):
    """Returns float64 values rounded to an element type."""
    return reference.from_storage(reference.to_storage(values, dtype), dtype)


class Problem:
    """An MLP with random weights, input and gradient.

    Args:
        library: the launchers.
        device: memory that they work on.
        rng: NumPy generator.
        batch: B.
        widths: of the input and of each layer.
        dtype: of the activations.
        last_relu: whether ReLU follows the last layer.
        tf32: see `DlrmMlp`.
    """

    def __init__(self, library, device, rng, batch, widths, dtype, last_relu=False, tf32=False):
        self.library, self.device, self.dtype = library, device, dtype
        self.batch, self.widths, self.last_relu = batch, list(widths), last_relu
        self.shape = launchers.Mlp.of(batch, widths, dtype, last_relu, tf32)
        self.layers = len(widths) - 1
        # Rounding to 16 bits has to remove it; it changes no float32 sum that must be exact.
        detail = 0.0 if dtype == FLOAT32 else 2.0**-13
        self.kernels = [
            (rng.integers(-2, 3, (k, n)) * (rng.random((k, n)) < 4 / k) * (0.5 + detail))
            .astype(np.float32)
            for k, n in zip(widths, widths[1:])
        ]  # fmt: skip
        self.biases = [
            (rng.integers(-4, 5, n) * (0.25 + detail)).astype(np.float32) for n in widths[1:]
        ]
        self.x = rng.integers(-4, 5, (batch, widths[0])) * 0.5
        self.gradient = rng.integers(-4, 5, (batch, widths[-1])) * 0.25

    def expected(self, fused):
        """Returns the `Results` in float64.

        Args:
            fused: per layer, whether the bias is added before the product's only rounding.
        """
        kernels = [rounded(kernel, self.dtype) for kernel in self.kernels]
        biases = [rounded(bias, self.dtype) for bias in self.biases]
        inputs, outputs = [self.x], []
        for layer in range(self.layers):
            product = inputs[-1] @ kernels[layer]
            if not fused[layer]:
                product = rounded(product, self.dtype)
            output = rounded(product + biases[layer], self.dtype)
            if layer + 1 < self.layers or self.last_relu:
                output = np.maximum(output, 0)
            outputs.append(output)
            inputs.append(output)
        gradient = self.gradient
        if self.last_relu:
            gradient = gradient * (outputs[-1] > 0)
        kernel_gradients, bias_gradients = [], []
        for layer in reversed(range(self.layers)):
            kernel_gradients.insert(0, inputs[layer].T @ gradient)
            bias_gradients.insert(0, gradient.sum(axis=0))
            gradient = rounded(gradient @ kernels[layer].T, self.dtype)
            if layer > 0:
                gradient = gradient * (inputs[layer] > 0)
        return Results(outputs[-1], outputs[:-1], gradient, kernel_gradients, bias_gradients)

    def _upload(self, values):
        return self.device.upload(reference.to_storage(values, self.dtype))

    def _activations(self, width):
        return self.device.empty(self.batch * width, reference.STORAGE[self.dtype])

    def _download(self, buffer, width):
        stored = buffer.download().reshape(self.batch, width)
        return reference.from_storage(stored, self.dtype)

    def prepare(self, weight_offset=0):
        """Allocates and uploads; weights and their gradients are misaligned by an offset, bytes."""
        upload, array = self.device.upload, launchers.pointer_array
        inner = self.widths[1:-1]
        self._x, self._gradient = self._upload(self.x), self._upload(self.gradient)
        self._kernels = [upload(kernel, weight_offset) for kernel in self.kernels]
        self._biases = [upload(bias, weight_offset) for bias in self.biases]
        self._hidden = [self._activations(width) for width in inner]
        self._y = self._activations(self.widths[-1])
        saved, self._workspace_bytes = self.library.mlp_bytes(self.shape)
        self._saved = self.device.empty(saved, np.uint8, offset=0)
        self._workspace = self.device.empty(self._workspace_bytes, np.uint8)
        self._x_gradient = self._activations(self.widths[0])
        self._kernel_gradients = [
            self.device.empty(kernel.size, np.float32, weight_offset) for kernel in self.kernels
        ]
        self._bias_gradients = [
            self.device.empty(bias.size, np.float32, weight_offset) for bias in self.biases
        ]
        self._arrays = [array(b) for b in (self._kernels, self._biases, self._hidden)]
        return self

    def forward(self, training=True):
        """Calls the launcher; returns the y of an inference, or the `Results` of training."""
        kernels, biases, hidden = self._arrays
        self.library.mlp_forward(
            self.shape, self._x.pointer, kernels, biases, hidden if training else None,
            self._y.pointer, self._saved.pointer if training else None, self._workspace.pointer,
            self._workspace_bytes, self.device.stream,
        )  # fmt: skip
        y = self._download(self._y, self.widths[-1])
        self._check_memory()
        if not training:
            return Results(y, [])
        inner = zip(self._hidden, self.widths[1:-1])
        return Results(y, [self._download(buffer, width) for buffer, width in inner])

    def backward(self, results, input_gradient=True):
        """Calls the launcher after `forward`; adds the gradients to its results."""
        kernels, _, hidden = self._arrays
        self.library.mlp_backward(
            self.shape, self._gradient.pointer, self._y.pointer, self._x.pointer, hidden, kernels,
            self._saved.pointer, self._x_gradient.pointer if input_gradient else None,
            launchers.pointer_array(self._kernel_gradients),
            launchers.pointer_array(self._bias_gradients), self._workspace.pointer,
            self._workspace_bytes, self.device.stream,
        )  # fmt: skip
        self._check_memory()
        if input_gradient:
            results.x_gradient = self._download(self._x_gradient, self.widths[0])
        results.kernel_gradients = [
            buffer.download().reshape(kernel.shape).astype(np.float64)
            for buffer, kernel in zip(self._kernel_gradients, self.kernels)
        ]
        results.bias_gradients = [
            buffer.download().astype(np.float64) for buffer in self._bias_gradients
        ]
        return results

    def _check_memory(self):
        """Raises GuardError if a launcher wrote outside its memory."""
        self._saved.download()
        self._workspace.download()
