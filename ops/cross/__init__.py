"""The cross network of DCN V2: native op for CPUs, and its TensorFlow formulation.

B samples, n columns, r rank, L layers. x0 [B, n] is the input of layer 0, and layer l computes

    x = x0 * (x V_l W_l + b_l) + x      low rank, V_l [n, r], W_l [r, n]
    x = x0 * (x W_l + b_l) + x          full rank, W_l [n, n]

with elementwise products `*`; b_l [n]. Formula: Wang et al. 2020,
https://arxiv.org/abs/2008.13535. Kernels multiply from the right, as in `model.mlp`: they are the
transposes of TorchRec's `LowRankCrossNet` (V_kernels [r, n], W_kernels [n, r]) and `CrossNet`
(kernels [n, n]).

For the gradient the native op keeps x V_l and z_l = x V_l W_l + b_l of each layer: L (n + r) values
per sample. Inputs of layers follow from x0 and z. Products accumulate in float32 for every element
type, and the gradients of kernels and biases are float32. Matrix products are oneDNN's.
"""

from ops.cross.native import cross_network
from ops.cross.tensorflow_formulation import cross_network_tensorflow

__all__ = ["cross_network", "cross_network_tensorflow"]
