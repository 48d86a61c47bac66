"""Whole MLPs, dense layers with ReLU between them, as one op on CPUs; products by oneDNN.

B samples, K inputs, N layers of widths n1 .. nN. A layer is relu(x kernel + bias), the last one
linear unless asked otherwise; relu of NaN or of an infinity is NaN. Products accumulate in float32
whatever the element type, and the gradients of kernels and biases are float32.
"""

from ops.mlp.native import mlp, mlp_for_inference

__all__ = ["mlp", "mlp_for_inference"]
