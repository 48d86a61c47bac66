"""The dense part of a step on one GPU: with this project's kernels, and with PyTorch's products.

Both compute the same from the same float32 weights. Shapes: B batch.
"""

# PyTorch is not installed in the project's default environment.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tests.gpu import launchers
from tests.gpu.torch_dense import DenseUpdate, LogLoss, LossRecord, Mlp

#: Columns of the dense features with padding: cuBLAS' tensor-core kernels need aligned rows.
PADDED = 16


class Weights:
    """Float32 weights of both MLPs.

    Args:
        torch: the PyTorch module.
        bottom: widths of the bottom MLP, its input's first.
        top: widths of the top MLP, its input's first.
        device: "cuda" or "cpu".
    """

    def __init__(self, torch: Any, bottom: Sequence[int], top: Sequence[int], device: str):
        self.kernels, self.biases = [], []
        for widths in (bottom, top):
            for inputs, outputs in zip(widths, widths[1:]):
                deviation = (2.0 / (inputs + outputs)) ** 0.5
                self.kernels.append(torch.randn(inputs, outputs, device=device) * deviation)
                self.biases.append(torch.zeros(outputs, device=device))
        #: Number of layers of the bottom MLP.
        self.bottom = len(bottom) - 1

    @property
    def elements(self) -> int:
        """Number of all weights."""
        return sum(weight.numel() for weight in (*self.kernels, *self.biases))


class DensePart(Protocol):
    """The dense phases of a step, in order; buffers are fixed.

    Attributes:
        bottom: [B, D], the bottom MLP's result.
        interacted_gradient: [B, W], after `top_backward`.
        mean_loss: one element, after `loss`.
    """

    bottom: Any
    interacted_gradient: Any
    mean_loss: Any

    def bottom_forward(self) -> None:
        """Computes `bottom` from the dense features."""
        ...

    def top_forward(self, interacted: Any) -> None:
        """Computes the top MLP of [B, W]; the last layer may be left to `loss`."""
        ...

    def loss(self) -> None:
        """Computes the loss and its gradient."""
        ...

    def top_backward(self, interacted: Any) -> None:
        """Computes the gradients of the top MLP's weights and input."""
        ...

    def bottom_backward(self, gradient: Any) -> None:
        """Computes the gradients of the bottom MLP's weights from that of `bottom`."""
        ...

    def update(self) -> None:
        """Updates the weights."""
        ...


class FusedPart:
    """The launchers that a training step uses on GPUs: MLPs, log loss, update and record.

    Args:
        library: the launchers.
        weights: the weights, updated in place.
        dense: [B, dense features], the features.
        label: float32 [B, 1].
        kind: element type, as in `launchers`.
        rate: float32, one element: the learning rate.
        scale: float32, one element: the loss scale.
        tf32: whether float32 products round operands to TF32.
    """

    def __init__(
        self, library: launchers.Library, weights: Weights, dense: Any, label: Any, kind: int,
        rate: Any, scale: Any, tf32: bool,
    ):  # fmt: skip
        kernels, biases, first = weights.kernels, weights.biases, weights.bottom
        batch = dense.shape[0]
        self._dense = dense
        self._bottom = Mlp(
            library, kernels[:first], biases[:first], batch, kind, last_relu=True, tf32=tf32,
            input_gradient=False,
        )  # fmt: skip
        self._top = Mlp(
            library, kernels[first:-1], biases[first:-1], batch, kind, last_relu=True, tf32=tf32
        )
        self._loss = LogLoss(library, self._top.y, kernels[-1], biases[-1], label, scale, kind)
        self.bottom, self.interacted_gradient = self._bottom.y, self._top.x_gradient
        self.mean_loss = self._loss.loss
        gradients = [
            gradient
            for mlp in (self._bottom, self._top)
            for pair in zip(mlp.kernel_gradients, mlp.bias_gradients)
            for gradient in pair
        ]
        gradients += [self._loss.kernel_gradient, self._loss.bias_gradient]
        variables = [weight for pair in zip(kernels, biases) for weight in pair]
        self._update = DenseUpdate(library, "sgd", variables, gradients, rate, scale)
        self._record = LossRecord(library, self.mean_loss, self._update)

    def bottom_forward(self) -> None:
        """See `DensePart`."""
        self._bottom.forward(self._dense)

    def top_forward(self, interacted: Any) -> None:
        """See `DensePart`: all layers but the last."""
        self._top.forward(interacted)

    def loss(self) -> None:
        """See `DensePart`: the last layer too, and the gradients of both."""
        self._loss.run()

    def top_backward(self, interacted: Any) -> None:
        """See `DensePart`; the gradient of the loss is that of the last ReLU's input."""
        self._top.backward(interacted, self._loss.hidden_gradient, before_relu=True)

    def bottom_backward(self, gradient: Any) -> None:
        """See `DensePart`."""
        self._bottom.backward(self._dense, gradient)

    def update(self) -> None:
        """See `DensePart`; records the loss."""
        self._update.run()
        self._record.run()


class TorchPart:
    """PyTorch's products, with bias and ReLU fused, over copies of the weights in `dtype`.

    Args:
        torch: the PyTorch module.
        weights: the weights, updated in place. The copies are made here, and by each update.
        dense: [B, `PADDED`], the features and zeros.
        label: float32 [B, 1].
        dtype: type of activations and copies.
        rate: the learning rate.
        scale: the loss scale.
    """

    def __init__(
        self, torch: Any, weights: Weights, dense: Any, label: Any, dtype: Any, rate: float,
        scale: float,
    ):  # fmt: skip
        self._torch, self._weights, self._dense, self._label = torch, weights, dense, label
        self._rate, self._scale, self._dtype = rate, scale, dtype
        self._first = weights.bottom
        first = weights.kernels[0]
        padded = torch.zeros((PADDED, first.shape[1]), device=first.device, dtype=dtype)
        if dtype == torch.float32:
            self._kernels, self._biases = [padded, *weights.kernels[1:]], weights.biases
        else:
            others = [kernel.to(dtype) for kernel in weights.kernels[1:]]
            self._kernels, self._biases = [padded, *others], [b.to(dtype) for b in weights.biases]
        # Views and copies of the weights, in pairs.
        copies = [padded[: first.shape[0]], *self._kernels[1:], *self._biases]
        masters = [*weights.kernels, *weights.biases]
        pairs = [(c, m) for c, m in zip(copies, masters) if c is not m]
        self._copies, self._masters = [c for c, _ in pairs], [m for _, m in pairs]
        torch._foreach_copy_(self._copies, self._masters)
        count = len(masters) // 2
        self._gradients: list[Any] = [None] * count
        self._bias_gradients: list[Any] = [None] * count
        self.mean_loss = torch.zeros(1, device=first.device)
        self._bottom_outputs: list[Any] = []
        self._top_outputs: list[Any] = []

    @property
    def bottom(self) -> Any:
        """See `DensePart`."""
        return self._bottom_outputs[-1]

    def _forward(self, x, layers, last_relu):
        outputs = [x]
        for layer in layers:
            kernel, bias = self._kernels[layer], self._biases[layer]
            if last_relu or layer != layers[-1]:
                # cuBLASLt fuses bias and ReLU into the product.
                x = self._torch._addmm_activation(bias, x, kernel)
            else:
                x = self._torch.addmm(bias, x, kernel)
            outputs.append(x)
        return outputs

    def bottom_forward(self) -> None:
        """See `DensePart`."""
        self._bottom_outputs = self._forward(self._dense, range(self._first), True)

    def top_forward(self, interacted: Any) -> None:
        """See `DensePart`: all layers."""
        layers = range(self._first, len(self._kernels))
        self._top_outputs = self._forward(interacted, layers, False)

    def loss(self) -> None:
        """See `DensePart`."""
        logits = self._top_outputs[-1].float()
        functional = self._torch.nn.functional
        mean = functional.binary_cross_entropy_with_logits(logits, self._label)
        self.mean_loss.copy_(mean.reshape(1))
        gradient = (logits.sigmoid() - self._label) * (self._scale / len(logits))
        self._logit_gradient = gradient.to(self._dtype)

    def _backward(self, outputs, layers, gradient, last_relu, input_gradient):
        """Returns the gradient of the first layer's input, or None; stores the weights'."""
        for index in reversed(range(len(layers))):
            if last_relu or index < len(layers) - 1:
                gradient = self._torch.ops.aten.threshold_backward(gradient, outputs[index + 1], 0)
            layer = layers[index]
            self._bias_gradients[layer] = gradient.sum(0, dtype=self._torch.float32)
            self._gradients[layer] = outputs[index].t() @ gradient
            if index or input_gradient:
                gradient = gradient @ self._kernels[layer].t()
        return gradient if input_gradient else None

    def top_backward(self, interacted: Any) -> None:
        """See `DensePart`."""
        layers = range(self._first, len(self._kernels))
        self.interacted_gradient = self._backward(
            self._top_outputs, layers, self._logit_gradient, False, True
        )

    def bottom_backward(self, gradient: Any) -> None:
        """See `DensePart`."""
        self._backward(self._bottom_outputs, range(self._first), gradient, True, False)

    def update(self) -> None:
        """See `DensePart`."""
        torch, weights = self._torch, self._weights
        gradients = [gradient.float() for gradient in self._gradients]
        gradients[0] = gradients[0][: weights.kernels[0].shape[0]]
        torch._foreach_add_(
            [*weights.kernels, *weights.biases], [*gradients, *self._bias_gradients],
            alpha=-self._rate / self._scale,
        )  # fmt: skip
        torch._foreach_copy_(self._copies, self._masters)
