// The inputs of the cross network's kernels, checked.

#ifndef DLRM_OPS_CROSS_CROSS_SHAPES_H_
#define DLRM_OPS_CROSS_CROSS_SHAPES_H_

#include <algorithm>
#include <string>
#include <vector>

#include "status.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dlrm {

// The weights of L layers of width n. Products are numbered in the order of the kernels: with low
// rank, products 2 l and 2 l + 1 are x V and (x V) W of layer l; with full rank, product l is x W.
struct CrossWeights {
  tensorflow::OpInputList kernels;
  int layers;
  std::vector<int64_t> widths;  // of the products' operands and results: {n, r, n, r, n ...}

  int64_t width() const { return widths[0]; }
  bool low_rank() const { return kernels.size() != layers; }
  int64_t rank(int layer) const { return widths[2 * layer + 1]; }  // only with low rank
  int64_t most_rank() const {
    int64_t most = 0;
    for (int l = 0; low_rank() && l < layers; ++l) most = std::max(most, rank(l));
    return most;
  }
  // Number of the product whose result is z of a layer.
  int outer(int layer) const { return low_rank() ? 2 * layer + 1 : layer; }

  // Checks x0 [B, n] and the kernels.
  Status Open(tensorflow::OpKernelContext* c, const tensorflow::Tensor& x0, int layer_count) {
    layers = layer_count;
    TF_RETURN_IF_ERROR(c->input_list("kernels", &kernels));
    if (x0.dims() != 2 || x0.dim_size(1) < 1) {
      return InvalidArgument("cross network: expected x0 [B, n >= 1], found shape ",
                             x0.shape().DebugString());
    }
    if (kernels.size() != layers && kernels.size() != 2 * layers) {
      return InvalidArgument("cross network: expected ", layers, " or ", 2 * layers,
                             " kernels for ", layers, " layers, found ", kernels.size());
    }
    const int64_t columns = x0.dim_size(1);
    widths.assign(1, columns);
    for (int k = 0; k < kernels.size(); ++k) {
      const tensorflow::TensorShape& shape = kernels[k].shape();
      const bool inner = low_rank() && k % 2 == 0;
      const bool fits = shape.dims() == 2 && shape.dim_size(0) == widths.back() &&
                        (inner ? shape.dim_size(1) >= 1 : shape.dim_size(1) == columns);
      if (!fits) {
        return InvalidArgument("cross network: expected kernel ", k, " [", widths.back(), ", ",
                               inner ? std::string("r >= 1") : std::to_string(columns),
                               "], found shape ", shape.DebugString());
      }
      widths.push_back(shape.dim_size(1));
    }
    return Status();
  }
};

// Checks that a tensor is [rows, columns].
inline Status CheckMatrix(const char* what, const tensorflow::Tensor& tensor, int64_t rows,
                          int64_t columns) {
  if (tensor.shape() == tensorflow::TensorShape({rows, columns})) return Status();
  return InvalidArgument("cross network: expected ", what, " [", rows, ", ", columns,
                         "], found shape ", tensor.shape().DebugString());
}

}  // namespace dlrm

#endif  // DLRM_OPS_CROSS_CROSS_SHAPES_H_
