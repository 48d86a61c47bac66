// The dot interaction's TensorFlow kernels for any device: input checks, output allocation, views.
//
// A Device (CpuDotInteraction<T>, GpuDotInteraction<T>) has
//   Element         the kernels' element type for T
//   kMayOverwrite   whether a gradient may reuse the memory of its features
//   BeforeWriting   called with every output before it is written
//   Forward, Backward
// Features come as two inputs, bottom [B, D] and vectors [B, F - 1, D], or as one, [B, F, D], whose
// slices [:, 0] and [:, 1:] are the two: views, not copies.

#ifndef DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_KERNEL_H_
#define DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_KERNEL_H_

#include "cpu/tensor_elements.h"
#include "dot_interaction/dot_interaction_layout.h"
#include "status.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dlrm {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

struct DotInteractionBatch {
  int64_t size;  // B
  DotInteractionShape shape;
};

// Checks the features: inputs `first` to last.
inline Status CheckFeatures(OpKernelContext* c, int first, DotInteractionBatch* batch) {
  const int last = c->num_inputs() - 1;
  const Tensor &bottom = c->input(first), &vectors = c->input(last);
  if (first == last && vectors.dims() != 3) {
    return InvalidArgument("dot interaction: expected features [B, F, D], found shape ",
                           vectors.shape().DebugString());
  }
  if (first != last &&
      (bottom.dims() != 2 || vectors.dims() != 3 || bottom.dim_size(0) != vectors.dim_size(0) ||
       bottom.dim_size(1) != vectors.dim_size(2))) {
    return InvalidArgument(
        "dot interaction: expected bottom [B, D] and vectors [B, T, D] with equal B and D, found ",
        bottom.shape().DebugString(), " and ", vectors.shape().DebugString());
  }
  const int64_t features = vectors.dim_size(1) + last - first, dimension = vectors.dim_size(2);
  if (features < 1 || dimension < 1) {
    return InvalidArgument(
        "dot interaction: expected at least 1 feature vector of at least 1 element, found ",
        features, " of ", dimension);
  }
  *batch = {vectors.dim_size(0), {features, dimension, OutputWidth(features, dimension)}};
  return Status();
}

inline Status CheckGradient(const Tensor& gradient, const DotInteractionBatch& batch) {
  const DotInteractionShape& shape = batch.shape;
  if (gradient.shape() == TensorShape({batch.size, shape.width})) return Status();
  return InvalidArgument("dot interaction: expected gradient [", batch.size, ", ", shape.width,
                         "] for ", shape.features, " feature vectors of ", shape.dimension,
                         " elements, found ", gradient.shape().DebugString());
}

// The rows of checked features: bottom [B, D] and vectors, or one tensor `bottom` [B, F, D].
template <class E>
FeatureRows<E> RowsOf(const Tensor& bottom, const Tensor& vectors,
                      const DotInteractionShape& shape) {
  const int64_t D = shape.dimension;
  E* data = MutableElementsOf<std::remove_const_t<E>>(bottom);
  if (bottom.dims() == 3) return {data, data + D, shape.features * D, shape.features * D};
  return {data, MutableElementsOf<std::remove_const_t<E>>(vectors), D, (shape.features - 1) * D};
}

// Inputs: features. Output: interactions [B, W].
template <class Device>
class DotInteractionKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* c) override {
    using E = typename Device::Element;
    DotInteractionBatch batch;
    OP_REQUIRES_OK(c, CheckFeatures(c, 0, &batch));
    Tensor* output = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, TensorShape({batch.size, batch.shape.width}), &output));
    if (batch.size == 0) return;
    Device::BeforeWriting(*output);
    OP_REQUIRES_OK(
        c, Device::Forward(c, batch,
                           RowsOf<const E>(c->input(0), c->input(c->num_inputs() - 1), batch.shape),
                           MutableElementsOf<E>(*output)));
  }
};

// Inputs: gradient [B, W], features. Outputs: the features' gradients, shaped like them.
template <class Device>
class DotInteractionGradientKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* c) override {
    using E = typename Device::Element;
    DotInteractionBatch batch;
    OP_REQUIRES_OK(c, CheckFeatures(c, 1, &batch));
    OP_REQUIRES_OK(c, CheckGradient(c->input(0), batch));
    const int count = c->num_outputs();
    Tensor* outputs[2];
    for (int k = 0; k < count; ++k) {
      const TensorShape& shape = c->input(1 + k).shape();
      // Reuses the features' memory if possible: it is mapped and cached.
      OP_REQUIRES_OK(c, Device::kMayOverwrite
                            ? c->forward_input_or_allocate_output({1 + k}, k, shape, &outputs[k])
                            : c->allocate_output(k, shape, &outputs[k]));
    }
    if (batch.size == 0) return;
    for (int k = 0; k < count; ++k) Device::BeforeWriting(*outputs[k]);
    OP_REQUIRES_OK(
        c, Device::Backward(c, batch, RowsOf<const E>(c->input(1), c->input(count), batch.shape),
                            ElementsOf<E>(c->input(0)),
                            RowsOf<E>(*outputs[0], *outputs[count - 1], batch.shape)));
  }
};

}  // namespace
}  // namespace dlrm

#define DLRM_REGISTER_DOT_INTERACTION_AS(NAME, DEVICE, T, KERNEL) \
  REGISTER_KERNEL_BUILDER(Name(NAME).Device(tensorflow::DEVICE).TypeConstraint<T>("T"), KERNEL)

// Registers the four ops for one element type of a device.
#define DLRM_REGISTER_DOT_INTERACTION(DEVICE, Device, T)                      \
  DLRM_REGISTER_DOT_INTERACTION_AS("Dlrm>DotInteraction", DEVICE, T,          \
                                   DotInteractionKernel<Device<T>>);          \
  DLRM_REGISTER_DOT_INTERACTION_AS("Dlrm>DotInteractionSplit", DEVICE, T,     \
                                   DotInteractionKernel<Device<T>>);          \
  DLRM_REGISTER_DOT_INTERACTION_AS("Dlrm>DotInteractionGrad", DEVICE, T,      \
                                   DotInteractionGradientKernel<Device<T>>);  \
  DLRM_REGISTER_DOT_INTERACTION_AS("Dlrm>DotInteractionSplitGrad", DEVICE, T, \
                                   DotInteractionGradientKernel<Device<T>>)

#endif  // DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_KERNEL_H_
