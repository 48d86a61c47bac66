// TensorFlow's GPU kernels of the dot interaction: input checks around the CUDA launchers.

#include "dot_interaction/dot_interaction_launchers.h"
#include "gpu_stream.h"

namespace dlrm {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelContext;
using tensorflow::Status;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;

// Where the rows of one tensor, or of a bottom output and vectors, lie in device memory.
struct Rows {
  char* bottom;
  int64_t bottom_stride;
  char* vectors;
  int64_t vectors_stride;
};

template <class T>
class GpuInteractionKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

 protected:
  static Status MakeShape(int64_t batch, int64_t features, int64_t dim,
                          DlrmInteractionShape* shape) {
    if (features < 1 || dim < 1) {
      return InvalidArgument("the dot interaction needs at least 1 feature of dimension 1, got ",
                             features, " of dimension ", dim);
    }
    *shape = {batch, features, dim, CudaType<T>::kValue, DLRM_INTERACTION_ACCURATE};
    return Status();
  }

  static Status StackedShape(const Tensor& features, DlrmInteractionShape* shape) {
    if (features.dims() != 3) {
      return InvalidArgument("features must be [B, F, D], got shape ",
                             features.shape().DebugString());
    }
    return MakeShape(features.dim_size(0), features.dim_size(1), features.dim_size(2), shape);
  }

  static Status SplitShape(const Tensor& bottom, const Tensor& vectors,
                           DlrmInteractionShape* shape) {
    if (bottom.dims() != 2 || vectors.dims() != 3 || bottom.dim_size(0) != vectors.dim_size(0) ||
        bottom.dim_size(1) != vectors.dim_size(2)) {
      return InvalidArgument("bottom must be [B, D] and vectors [B, T, D] with equal B and D, got ",
                             bottom.shape().DebugString(), " and ", vectors.shape().DebugString());
    }
    return MakeShape(bottom.dim_size(0), vectors.dim_size(1) + 1, bottom.dim_size(1), shape);
  }

  static Rows Stacked(const Tensor& features, const DlrmInteractionShape& shape) {
    char* data = MutableDeviceData(features);
    const int64_t stride = shape.features * shape.dim;
    return {data, stride, data + shape.dim * static_cast<int64_t>(sizeof(T)), stride};
  }

  static Rows Split(const Tensor& bottom, const Tensor& vectors,
                    const DlrmInteractionShape& shape) {
    return {MutableDeviceData(bottom), shape.dim, MutableDeviceData(vectors),
            (shape.features - 1) * shape.dim};
  }

  static void Forward(OpKernelContext* c, const DlrmInteractionShape& shape, const Rows& rows) {
    Tensor* output = nullptr;
    const int64_t width = dlrm_dot_interaction_width(shape.features, shape.dim);
    OP_REQUIRES_OK(c, c->allocate_output(0, TensorShape({shape.batch, width}), &output));
    if (shape.batch == 0) return;
    OP_REQUIRES_OK(c, CudaStatus(dlrm_dot_interaction_forward(
                                     &shape, rows.bottom, rows.bottom_stride, rows.vectors,
                                     rows.vectors_stride, MutableDeviceData(*output), StreamOf(c)),
                                 "dot interaction"));
  }

  static void Backward(OpKernelContext* c, const DlrmInteractionShape& shape, const Rows& rows,
                       const Rows& gradients) {
    const Tensor& upstream = c->input(0);
    const int64_t width = dlrm_dot_interaction_width(shape.features, shape.dim);
    OP_REQUIRES(c,
                upstream.dims() == 2 && upstream.dim_size(0) == shape.batch &&
                    upstream.dim_size(1) == width,
                InvalidArgument("gradient must be [", shape.batch, ", ", width, "] for ",
                                shape.features, " features of dimension ", shape.dim, ", got ",
                                upstream.shape().DebugString()));
    if (shape.batch == 0) return;
    OP_REQUIRES_OK(
        c, CudaStatus(dlrm_dot_interaction_backward(
                          &shape, rows.bottom, rows.bottom_stride, rows.vectors,
                          rows.vectors_stride, DeviceData(upstream), gradients.bottom,
                          gradients.bottom_stride, gradients.vectors, gradients.vectors_stride,
                          StreamOf(c)),
                      "gradient of the dot interaction"));
  }
};

template <class T>
class GpuStackedKernel : public GpuInteractionKernel<T> {
 public:
  using GpuInteractionKernel<T>::GpuInteractionKernel;
  void Compute(OpKernelContext* c) override {
    DlrmInteractionShape shape;
    OP_REQUIRES_OK(c, this->StackedShape(c->input(0), &shape));
    this->Forward(c, shape, this->Stacked(c->input(0), shape));
  }
};

template <class T>
class GpuStackedGradientKernel : public GpuInteractionKernel<T> {
 public:
  using GpuInteractionKernel<T>::GpuInteractionKernel;
  void Compute(OpKernelContext* c) override {
    const Tensor& features = c->input(1);
    DlrmInteractionShape shape;
    OP_REQUIRES_OK(c, this->StackedShape(features, &shape));
    Tensor* out = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, features.shape(), &out));
    this->Backward(c, shape, this->Stacked(features, shape), this->Stacked(*out, shape));
  }
};

template <class T>
class GpuSplitKernel : public GpuInteractionKernel<T> {
 public:
  using GpuInteractionKernel<T>::GpuInteractionKernel;
  void Compute(OpKernelContext* c) override {
    DlrmInteractionShape shape;
    OP_REQUIRES_OK(c, this->SplitShape(c->input(0), c->input(1), &shape));
    this->Forward(c, shape, this->Split(c->input(0), c->input(1), shape));
  }
};

template <class T>
class GpuSplitGradientKernel : public GpuInteractionKernel<T> {
 public:
  using GpuInteractionKernel<T>::GpuInteractionKernel;
  void Compute(OpKernelContext* c) override {
    const Tensor &bottom = c->input(1), &vectors = c->input(2);
    DlrmInteractionShape shape;
    OP_REQUIRES_OK(c, this->SplitShape(bottom, vectors, &shape));
    Tensor *bottom_out = nullptr, *vectors_out = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, bottom.shape(), &bottom_out));
    OP_REQUIRES_OK(c, c->allocate_output(1, vectors.shape(), &vectors_out));
    this->Backward(c, shape, this->Split(bottom, vectors, shape),
                   this->Split(*bottom_out, *vectors_out, shape));
  }
};

#define DLRM_REGISTER(T)                                                                      \
  REGISTER_KERNEL_BUILDER(                                                                    \
      Name("Dlrm>DotInteraction").Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"),      \
      GpuStackedKernel<T>);                                                                   \
  REGISTER_KERNEL_BUILDER(                                                                    \
      Name("Dlrm>DotInteractionGrad").Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"),  \
      GpuStackedGradientKernel<T>);                                                           \
  REGISTER_KERNEL_BUILDER(                                                                    \
      Name("Dlrm>DotInteractionSplit").Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"), \
      GpuSplitKernel<T>);                                                                     \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>DotInteractionSplitGrad")                                \
                              .Device(tensorflow::DEVICE_GPU)                                 \
                              .TypeConstraint<T>("T"),                                        \
                          GpuSplitGradientKernel<T>);
DLRM_REGISTER(float)
DLRM_REGISTER(Eigen::half)
DLRM_REGISTER(tensorflow::bfloat16)
#undef DLRM_REGISTER

}  // namespace
}  // namespace dlrm
