"""An MLP (dense layers with ReLU between them) as one CPU op; matrix products by oneDNN.

B samples, K inputs, N layers of widths n1 .. nN. A layer is relu(x kernel + bias); the last one is
linear by default. relu of NaN or infinity is NaN. Products accumulate in float32 for every element
type, and the gradients of kernels and biases are float32.
"""

from ops.mlp.native import mlp

__all__ = ["mlp"]
