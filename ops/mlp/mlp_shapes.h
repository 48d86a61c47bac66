// The MLP's widths, checked. Shared by the CPU and the GPU kernels.
#ifndef DLRM_OPS_MLP_MLP_SHAPES_H_
#define DLRM_OPS_MLP_MLP_SHAPES_H_

#include <vector>

#include "status.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dlrm {

// Checks x [B, K] and kernels [K, n1], [n1, n2] ...; sets widths {K, n1, n2 ...}.
inline Status CheckKernels(const tensorflow::Tensor& x, const tensorflow::OpInputList& kernels,
                           std::vector<int64_t>* widths) {
  if (x.dims() != 2 || x.dim_size(1) < 1) {
    return InvalidArgument("MLP: expected x [B, K >= 1], found shape ", x.shape().DebugString());
  }
  widths->assign(1, x.dim_size(1));
  for (int l = 0; l < kernels.size(); ++l) {
    const tensorflow::TensorShape& shape = kernels[l].shape();
    if (shape.dims() != 2 || shape.dim_size(0) != widths->back() || shape.dim_size(1) < 1) {
      return InvalidArgument("MLP: expected kernel ", l, " [", widths->back(),
                             ", N >= 1], found shape ", shape.DebugString());
    }
    widths->push_back(shape.dim_size(1));
  }
  return Status();
}

// The inputs of MlpForward, and the widths {K, n1, n2 ...} of its layers.
struct MlpForwardInputs {
  const tensorflow::Tensor* x;
  tensorflow::OpInputList kernels, biases;
  std::vector<int64_t> widths;

  int64_t batch() const { return x->dim_size(0); }
  int layers() const { return kernels.size(); }

  // Returns an error if shapes, or the number of `hidden` outputs, do not match.
  Status Open(tensorflow::OpKernelContext* c, int hidden) {
    x = &c->input(0);
    TF_RETURN_IF_ERROR(c->input_list("kernels", &kernels));
    TF_RETURN_IF_ERROR(c->input_list("biases", &biases));
    TF_RETURN_IF_ERROR(CheckKernels(*x, kernels, &widths));
    for (int l = 0; l < layers(); ++l) {
      if (biases[l].dims() != 1 || biases[l].dim_size(0) != widths[l + 1]) {
        return InvalidArgument("MLP: expected bias ", l, " [", widths[l + 1],
                               "], the width of its kernel, found shape ",
                               biases[l].shape().DebugString());
      }
    }
    if (hidden != 0 && hidden != layers() - 1) {
      return InvalidArgument("MLP: expected ", layers() - 1, " or 0 hidden activations for ",
                             layers(), " layers, found M = ", hidden);
    }
    return Status();
  }
};

// The inputs of MlpBackward, and the widths {K, n1, n2 ...} of its layers.
struct MlpBackwardInputs {
  const tensorflow::Tensor *gradient, *y, *x, *saved;
  tensorflow::OpInputList hidden, kernels;
  std::vector<int64_t> widths;

  int64_t batch() const { return x->dim_size(0); }
  int layers() const { return kernels.size(); }

  // Returns an error if shapes or the number of hidden activations do not match.
  Status Open(tensorflow::OpKernelContext* c) {
    gradient = &c->input(0);
    y = &c->input(1);
    x = &c->input(2);
    TF_RETURN_IF_ERROR(c->input_list("hidden", &hidden));
    TF_RETURN_IF_ERROR(c->input_list("kernels", &kernels));
    saved = &c->input(c->num_inputs() - 1);
    TF_RETURN_IF_ERROR(CheckKernels(*x, kernels, &widths));
    if (hidden.size() != layers() - 1) {
      return InvalidArgument("MLP gradient: expected ", layers() - 1, " hidden activations for ",
                             layers(), " layers, found ", hidden.size());
    }
    TF_RETURN_IF_ERROR(Check("gradient", *gradient, widths.back()));
    TF_RETURN_IF_ERROR(Check("y", *y, widths.back()));
    for (int l = 0; l < hidden.size(); ++l) {
      TF_RETURN_IF_ERROR(Check("hidden activations", hidden[l], widths[l + 1]));
    }
    return Status();
  }

 private:
  Status Check(const char* what, const tensorflow::Tensor& tensor, int64_t width) const {
    if (tensor.shape() == tensorflow::TensorShape({batch(), width})) return Status();
    return InvalidArgument("MLP gradient: expected ", what, " [", batch(), ", ", width,
                           "], found shape ", tensor.shape().DebugString());
  }
};

}  // namespace dlrm

#endif  // DLRM_OPS_MLP_MLP_SHAPES_H_
