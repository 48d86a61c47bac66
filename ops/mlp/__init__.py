"""An MLP (dense layers with ReLU between them) as one op.

B samples, K inputs, N layers of widths n1 .. nN. A layer is relu(x kernel + bias); the last one is
linear by default. Products accumulate in float32 for every element type, and the gradients of
kernels and biases are float32. Matrix products are oneDNN's on CPUs, where relu of NaN or infinity
is NaN, and cuBLASLt's on GPUs.
"""

from ops.mlp.native import (
    MlpActivations,
    MlpGradients,
    kernel_device,
    load_kernels,
    mlp,
    mlp_backward,
    mlp_forward,
)

__all__ = [
    "MlpActivations",
    "MlpGradients",
    "kernel_device",
    "load_kernels",
    "mlp",
    "mlp_backward",
    "mlp_forward",
]
