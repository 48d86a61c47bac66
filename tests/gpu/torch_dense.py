"""The launchers of a step's dense part over PyTorch's tensors: for timings and whole steps.

Shapes: B batch. Element types are those of `launchers`; weights and their gradients are float32.
"""

import ctypes

from tests.gpu import launchers
from tests.gpu.clock import torch_dtype
from tests.gpu.memory import workspace


def stream_of(tensor):
    """Returns the handle of PyTorch's current stream, or None for a tensor in host memory."""
    import torch

    return torch.cuda.current_stream().cuda_stream if tensor.is_cuda else None


def addresses(tensors):
    """Returns a ctypes array of the tensors' addresses."""
    return launchers.pointer_array([tensor.data_ptr() for tensor in tensors])


class Mlp:
    """An MLP with fixed buffers.

    Args:
        library: the launchers.
        kernels: float32 [inputs, outputs] of each layer.
        biases: float32 [outputs] of each layer.
        batch: B.
        dtype: element type of activations.
        last_relu: whether ReLU follows the last layer.
        tf32: whether float32 products may round operands to TF32.
        input_gradient: whether `backward` computes the gradient of x.
    """

    def __init__(
        self, library, kernels, biases, batch, dtype, last_relu, tf32=True, input_gradient=True
    ):
        import torch

        self._library, self._device = library, kernels[0].device
        widths = [kernels[0].shape[0], *(kernel.shape[1] for kernel in kernels)]
        self._shape, self._linear = (
            launchers.Mlp.of(batch, widths, dtype, relu, tf32) for relu in (last_relu, False)
        )
        # Kept: the launchers read the addresses.
        self._weights = (kernels, biases)
        self._kernels, self._biases = addresses(kernels), addresses(biases)
        elements = {"dtype": torch_dtype(dtype), "device": self._device}
        self._hidden = [torch.empty((batch, width), **elements) for width in widths[1:-1]]
        #: The last layer's activations, [B, outputs].
        self.y = torch.empty((batch, widths[-1]), **elements)
        #: The gradient of x, or None.
        self.x_gradient = torch.empty((batch, widths[0]), **elements) if input_gradient else None
        #: The gradients of kernels and biases.
        self.kernel_gradients = [torch.empty_like(kernel) for kernel in kernels]
        self.bias_gradients = [torch.empty_like(bias) for bias in biases]
        saved, temporary = library.mlp_bytes(self._shape)
        self._saved = workspace(saved, self._device)
        self._workspace = workspace(temporary, self._device)

    def forward(self, x):
        """Computes `y` from x [B, inputs]."""
        self._library.mlp_forward(
            ctypes.byref(self._shape), x.data_ptr(), self._kernels, self._biases,
            addresses(self._hidden), self.y.data_ptr(), self._saved.data_ptr(),
            self._workspace.data_ptr(), self._workspace.numel(), stream_of(x),
        )  # fmt: skip

    def backward(self, x, gradient, before_relu=False):
        """Computes all gradients, after `forward` with the same x.

        Args:
            x: [B, inputs].
            gradient: [B, outputs]: that of `y`, or with `before_relu` of the last ReLU's input.
            before_relu: see gradient.
        """
        shape = self._linear if before_relu else self._shape
        self._library.mlp_backward(
            ctypes.byref(shape), gradient.data_ptr(), self.y.data_ptr(), x.data_ptr(),
            addresses(self._hidden), self._kernels, self._saved.data_ptr(),
            None if self.x_gradient is None else self.x_gradient.data_ptr(),
            addresses(self.kernel_gradients), addresses(self.bias_gradients),
            self._workspace.data_ptr(), self._workspace.numel(), stream_of(x),
        )  # fmt: skip


class LogLoss:
    """The last layer with the loss and all gradients, over fixed buffers.

    Args:
        library: the launchers.
        hidden: [B, n], its input.
        kernel: float32 [n, 1].
        bias: float32 [1].
        label: float32 [B, 1].
        scale: float32, one element: the loss scale.
        dtype: element type of hidden.
        relu: whether hidden is the result of a ReLU.
    """

    def __init__(self, library, hidden, kernel, bias, label, scale, dtype, relu=True):
        import torch

        batch, width = hidden.shape
        self._library = library
        self._inputs = (hidden, kernel, bias, label, scale)
        #: The mean loss, one element.
        self.loss = torch.empty(1, device=hidden.device)
        #: The gradient of hidden, or with relu that of the ReLU's input.
        self.hidden_gradient = torch.empty_like(hidden)
        self.kernel_gradient = torch.empty_like(kernel)
        self.bias_gradient = torch.empty_like(bias)
        outputs = (self.loss, self.hidden_gradient, self.kernel_gradient, self.bias_gradient)
        self._description = launchers.LogLoss(
            batch, width, dtype, relu, *(t.data_ptr() for t in (*self._inputs, *outputs))
        )
        size = library.bytes_of("log_loss", self._description)
        self._workspace = workspace(size, hidden.device)

    def run(self):
        """Computes loss and gradients."""
        self._library.log_loss(
            ctypes.byref(self._description), self._workspace.data_ptr(), self._workspace.numel(),
            stream_of(self.loss),
        )  # fmt: skip


class DenseUpdate:
    """The update of all variables from their gradients.

    Args:
        library: the launchers.
        optimizer: one of `launchers.DENSE_OPTIMIZERS`.
        variables: float32 tensors.
        gradients: float32 tensors: their concatenation has the variables' gradients.
        rate: float32, one element: the learning rate.
        scale: float32, one element: the loss scale.
    """

    def __init__(self, library, optimizer, variables, gradients, rate, scale):
        import torch

        self._library, device = library, rate.device
        # Their numbers are those of their states too.
        number = launchers.DENSE_OPTIMIZERS.index(optimizer)
        #: The states, a variable's together.
        self.states = [torch.full_like(v, 0.1) for v in variables for _ in range(number)]
        self.iteration = torch.zeros(1, dtype=torch.int64, device=device)
        #: Whether the step is applied, and whether all variables are finite afterwards.
        self.finite, self.weights_finite = torch.ones((2, 1), dtype=torch.uint8, device=device)
        self._kept = (variables, gradients, rate, scale)
        self._description = launchers.DenseUpdate(
            number, len(variables), len(gradients), launchers.DENSE_HYPERPARAMETERS[optimizer],
            addresses(variables), addresses(self.states),
            launchers.int64_array([v.numel() for v in variables]), addresses(gradients),
            launchers.int64_array([g.numel() for g in gradients]), self.iteration.data_ptr(),
            rate.data_ptr(), scale.data_ptr(), self.finite.data_ptr(),
            self.weights_finite.data_ptr(),
        )  # fmt: skip
        size = library.bytes_of("dense_update", self._description)
        self._workspace = workspace(size, device)

    def run(self):
        """Updates the variables."""
        self._library.dense_update(
            ctypes.byref(self._description), self._workspace.data_ptr(), self._workspace.numel(),
            stream_of(self.iteration),
        )  # fmt: skip


class LossRecord:
    """The record of losses after each update.

    Args:
        library: the launchers.
        loss: float32, one element.
        update: the `DenseUpdate`.
    """

    def __init__(self, library, loss, update):
        import torch

        device = loss.device
        self._library, self._kept = library, (loss, update)
        self.sum = torch.zeros(1, dtype=torch.float64, device=device)
        self.last = torch.zeros(1, device=device)
        self.steps = torch.zeros(1, dtype=torch.int64, device=device)
        self._description = launchers.LossRecord(
            loss.data_ptr(), update.finite.data_ptr(), update.weights_finite.data_ptr(), 0,
            self.sum.data_ptr(), self.last.data_ptr(), self.steps.data_ptr(),
        )  # fmt: skip

    def run(self):
        """Adds the loss."""
        self._library.record_loss(ctypes.byref(self._description), stream_of(self.sum))


class AllFinite:
    """The check of tensors for infinite elements and NaN.

    Args:
        library: the launchers.
        tensors: of one element type.
        dtype: the element type.
    """

    def __init__(self, library, tensors, dtype):
        import torch

        self._library, self._tensors, self._dtype = library, tensors, dtype
        self._addresses = addresses(tensors)
        self._sizes = launchers.int64_array([tensor.numel() for tensor in tensors])
        #: uint8, one element: 1 if all elements are finite.
        self.finite = torch.zeros(1, dtype=torch.uint8, device=tensors[0].device)

    def run(self):
        """Computes `finite`."""
        self._library.all_finite(
            self._addresses, self._sizes, len(self._tensors), self._dtype, self.finite.data_ptr(),
            stream_of(self.finite),
        )  # fmt: skip
