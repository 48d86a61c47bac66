// TensorFlow GPU kernels of the last layer with the log loss, and of the check for finite numbers.

// First: it prepares Eigen for GPUs.
#include "gpu_stream.h"

#include <vector>

#include "log_loss/log_loss_launchers.h"

namespace dlrm {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

template <class T>
class GpuLogLossKernel : public OpKernel {
 public:
  explicit GpuLogLossKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("relu", &relu_));
  }

  void Compute(OpKernelContext* c) override {
    OP_REQUIRES_OK(c, CheckShapes(c));
    const TensorShape& shape = c->input(0).shape();
    Tensor* outputs[4];
    OP_REQUIRES_OK(c, c->allocate_output(0, TensorShape({}), &outputs[0]));
    for (int i = 1; i < 4; ++i) {
      OP_REQUIRES_OK(c, c->allocate_output(i, c->input(i - 1).shape(), &outputs[i]));
    }
    const auto input = [c](int i) {
      return reinterpret_cast<const float*>(DeviceData(c->input(i)));
    };
    const auto output = [&outputs](int i) {
      return reinterpret_cast<float*>(MutableDeviceData(*outputs[i]));
    };
    const DlrmLogLoss loss = {shape.dim_size(0),
                              shape.dim_size(1),
                              CudaType<T>::kValue,
                              relu_,
                              DeviceData(c->input(0)),
                              input(1),
                              input(2),
                              input(3),
                              input(4),
                              output(0),
                              MutableDeviceData(*outputs[1]),
                              output(2),
                              output(3)};
    size_t bytes = 0;
    OP_REQUIRES_OK(
        c, CudaStatus(dlrm_log_loss_workspace_bytes(&loss, &bytes), "workspace of a log loss"));
    Tensor workspace;
    OP_REQUIRES_OK(c, c->allocate_temp(tensorflow::DT_UINT8,
                                       TensorShape({static_cast<int64_t>(bytes)}), &workspace));
    OP_REQUIRES_OK(
        c, CudaStatus(dlrm_log_loss(&loss, MutableDeviceData(workspace), bytes, StreamOf(c)),
                      "log loss"));
  }

 private:
  // hidden [B, n], kernel [n, 1], bias [1], label [B, 1], scale [].
  static Status CheckShapes(OpKernelContext* c) {
    const TensorShape& hidden = c->input(0).shape();
    if (hidden.dims() != 2 || hidden.dim_size(0) < 1 || hidden.dim_size(1) < 1 ||
        hidden.dim_size(1) > DLRM_LOG_LOSS_MOST_WIDTH) {
      return InvalidArgument("log loss: hidden: expected [B, n] with B >= 1 and 1 <= n <= ",
                             int{DLRM_LOG_LOSS_MOST_WIDTH}, ", found ", hidden.DebugString());
    }
    constexpr const char* kNames[] = {"kernel", "bias", "label", "scale"};
    const TensorShape expected[] = {{hidden.dim_size(1), 1}, {1}, {hidden.dim_size(0), 1}, {}};
    for (int i = 0; i < 4; ++i) {
      const TensorShape& found = c->input(1 + i).shape();
      if (found != expected[i]) {
        return InvalidArgument("log loss: ", kNames[i], ": expected ", expected[i].DebugString(),
                               " for hidden ", hidden.DebugString(), ", found ",
                               found.DebugString());
      }
    }
    return Status();
  }

  bool relu_ = false;
};

template <class T>
class GpuAllFiniteKernel : public OpKernel {
 public:
  explicit GpuAllFiniteKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES(c, c->num_inputs() <= DLRM_ALL_FINITE_MOST_TENSORS,
                InvalidArgument("all finite: expected at most ", int{DLRM_ALL_FINITE_MOST_TENSORS},
                                " tensors, found ", c->num_inputs()));
  }

  void Compute(OpKernelContext* c) override {
    std::vector<const void*> tensors;
    std::vector<int64_t> sizes;
    for (int i = 0; i < c->num_inputs(); ++i) {
      tensors.push_back(DeviceData(c->input(i)));
      sizes.push_back(c->input(i).NumElements());
    }
    Tensor* finite = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, TensorShape({}), &finite));
    OP_REQUIRES_OK(
        c,
        CudaStatus(dlrm_all_finite(
                       tensors.data(), sizes.data(), c->num_inputs(), CudaType<T>::kValue,
                       reinterpret_cast<unsigned char*>(MutableDeviceData(*finite)), StreamOf(c)),
                   "all finite"));
  }
};

#define DLRM_REGISTER(T)                                                            \
  REGISTER_KERNEL_BUILDER(                                                          \
      Name("Dlrm>LogLoss").Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"),   \
      GpuLogLossKernel<T>);                                                         \
  REGISTER_KERNEL_BUILDER(                                                          \
      Name("Dlrm>AllFinite").Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"), \
      GpuAllFiniteKernel<T>);
DLRM_REGISTER(float)
DLRM_REGISTER(Eigen::half)
DLRM_REGISTER(tensorflow::bfloat16)
#undef DLRM_REGISTER

}  // namespace
}  // namespace dlrm
