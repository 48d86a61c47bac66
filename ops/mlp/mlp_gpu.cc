// The MLP's CUDA launchers as TensorFlow's GPU kernels.

// First: it prepares Eigen for GPUs.
#include "gpu_stream.h"

#include "mlp/mlp_launchers.h"
#include "mlp/mlp_shapes.h"

namespace dlrm {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;

// The launchers' errors name the failed call and its cause.
Status MlpStatus(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return Status();
  return Internal(what, ": ", dlrm_mlp_error(), "; use --mlp=tensorflow");
}

std::vector<const float*> FloatsOf(const OpInputList& tensors) {
  std::vector<const float*> pointers;
  for (const Tensor& tensor : tensors) {
    pointers.push_back(reinterpret_cast<const float*>(DeviceData(tensor)));
  }
  return pointers;
}

// The launchers need memory at multiples of this. TensorFlow's allocators promise only 64 bytes
// (those of GPUs return multiples of 256).
constexpr int64_t kAlignment = 256;

// Bytes to allocate for `bytes` aligned ones.
TensorShape ShapeOf(size_t bytes) {
  return TensorShape({bytes == 0 ? 0 : static_cast<int64_t>(bytes) + kAlignment});
}

char* Align(const Tensor& memory) {
  const auto address = reinterpret_cast<uintptr_t>(DeviceData(memory));
  return reinterpret_cast<char*>((address + kAlignment - 1) / kAlignment * kAlignment);
}

// Temporary memory of a call.
struct Workspace {
  size_t bytes = 0;
  Tensor memory;

  Status Allocate(OpKernelContext* c, const DlrmMlp& mlp) {
    TF_RETURN_IF_ERROR(MlpStatus(dlrm_mlp_workspace_bytes(&mlp, &bytes), "workspace of an MLP"));
    return c->allocate_temp(tensorflow::DT_UINT8, ShapeOf(bytes), &memory);
  }
};

template <class T>
class GpuMlpKernel : public OpKernel {
 public:
  explicit GpuMlpKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("last_relu", &last_relu_));
    OP_REQUIRES_OK(c, c->GetAttr("tf32", &tf32_));
  }

 protected:
  // `widths` must outlive the result.
  DlrmMlp Describe(int64_t batch, const std::vector<int64_t>& widths) const {
    const auto layers = static_cast<int32_t>(widths.size()) - 1;
    return {batch, widths.data(), layers, CudaType<T>::kValue, last_relu_, tf32_};
  }

 private:
  bool last_relu_, tf32_;
};

template <class T>
class GpuMlpForward : public GpuMlpKernel<T> {
 public:
  using GpuMlpKernel<T>::GpuMlpKernel;

  void Compute(OpKernelContext* c) override {
    OpOutputList hidden;
    OP_REQUIRES_OK(c, c->output_list("hidden", &hidden));
    MlpForwardInputs inputs;
    OP_REQUIRES_OK(c, inputs.Open(c, hidden.size()));
    const std::vector<int64_t>& widths = inputs.widths;
    const int64_t batch = inputs.batch();
    const DlrmMlp mlp = this->Describe(batch, widths);
    // An MLP of one layer has no hidden activations, and saves what its gradient needs always.
    const bool keeps = hidden.size() == inputs.layers() - 1;
    Tensor *y = nullptr, *saved = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, TensorShape({batch, widths.back()}), &y));
    std::vector<void*> kept(inputs.layers());  // never empty: its address is not NULL
    for (int l = 0; l < hidden.size(); ++l) {
      Tensor* activations = nullptr;
      OP_REQUIRES_OK(c, hidden.allocate(l, TensorShape({batch, widths[l + 1]}), &activations));
      kept[l] = MutableDeviceData(*activations);
    }
    size_t bytes = 0;
    if (keeps && batch != 0) {
      OP_REQUIRES_OK(c, MlpStatus(dlrm_mlp_saved_bytes(&mlp, &bytes), "saved memory of an MLP"));
    }
    OP_REQUIRES_OK(c, c->allocate_output(1 + hidden.size(), ShapeOf(bytes), &saved));
    if (batch == 0) return;
    Workspace workspace;
    OP_REQUIRES_OK(c, workspace.Allocate(c, mlp));
    const std::vector<const float*> kernels = FloatsOf(inputs.kernels);
    const std::vector<const float*> biases = FloatsOf(inputs.biases);
    OP_REQUIRES_OK(
        c, MlpStatus(dlrm_mlp_forward(&mlp, DeviceData(*inputs.x), kernels.data(), biases.data(),
                                      keeps ? kept.data() : nullptr, MutableDeviceData(*y),
                                      bytes != 0 ? Align(*saved) : nullptr, Align(workspace.memory),
                                      workspace.bytes, StreamOf(c)),
                     "MLP"));
  }
};

// The gradients of kernels and biases are slices of one allocation, in the order kernel 0, bias 0,
// kernel 1, ..., so that other kernels find them close together.
class WeightGradients {
 public:
  Status Allocate(OpKernelContext* c, const OpInputList& kernels) {
    std::vector<TensorShape> shapes;
    for (const Tensor& kernel : kernels) {
      shapes.push_back(kernel.shape());
      shapes.push_back(TensorShape({kernel.dim_size(1)}));
    }
    int64_t total = 0;
    for (const TensorShape& shape : shapes) total += Aligned(shape.num_elements());
    TF_RETURN_IF_ERROR(c->allocate_temp(tensorflow::DT_FLOAT, TensorShape({total}), &all_));
    OpOutputList outputs[2];
    TF_RETURN_IF_ERROR(c->output_list("kernel_gradients", &outputs[0]));
    TF_RETURN_IF_ERROR(c->output_list("bias_gradients", &outputs[1]));
    int64_t begin = 0;
    for (size_t i = 0; i < shapes.size(); ++i) {
      Tensor slice;
      const int64_t end = begin + shapes[i].num_elements();
      if (!slice.CopyFrom(all_.Slice(begin, end), shapes[i])) {
        return Internal("MLP gradient: cannot share memory as ", shapes[i].DebugString());
      }
      outputs[i % 2].set(i / 2, slice);
      pointers_[i % 2].push_back(reinterpret_cast<float*>(MutableDeviceData(slice)));
      begin += Aligned(shapes[i].num_elements());
    }
    return Status();
  }

  float* const* kernels() const { return pointers_[0].data(); }
  float* const* biases() const { return pointers_[1].data(); }

  Status SetToZero(cudaStream_t stream) {
    return CudaStatus(cudaMemsetAsync(MutableDeviceData(all_), 0, all_.TotalBytes(), stream),
                      "gradient of an MLP for no samples");
  }

 private:
  // Slices begin at multiples of 256 bytes, as allocations do.
  static int64_t Aligned(int64_t floats) { return (floats + 63) / 64 * 64; }

  Tensor all_;
  std::vector<float*> pointers_[2];
};

template <class T>
class GpuMlpBackward : public GpuMlpKernel<T> {
 public:
  explicit GpuMlpBackward(OpKernelConstruction* c) : GpuMlpKernel<T>(c) {
    OP_REQUIRES_OK(c, c->GetAttr("input_gradient", &input_gradient_));
  }

  void Compute(OpKernelContext* c) override {
    MlpBackwardInputs inputs;
    OP_REQUIRES_OK(c, inputs.Open(c));
    const int64_t batch = inputs.batch();
    const DlrmMlp mlp = this->Describe(batch, inputs.widths);
    Tensor* x_gradient = nullptr;
    const TensorShape none({0, inputs.widths[0]});
    OP_REQUIRES_OK(c,
                   c->allocate_output(0, input_gradient_ ? inputs.x->shape() : none, &x_gradient));
    WeightGradients gradients;
    OP_REQUIRES_OK(c, gradients.Allocate(c, inputs.kernels));
    if (batch == 0) {
      OP_REQUIRES_OK(c, gradients.SetToZero(StreamOf(c)));
      return;
    }
    size_t saved = 0;
    OP_REQUIRES_OK(c, MlpStatus(dlrm_mlp_saved_bytes(&mlp, &saved), "saved memory of an MLP"));
    OP_REQUIRES(c, inputs.saved->shape() == ShapeOf(saved),
                InvalidArgument("MLP gradient: expected saved ", ShapeOf(saved).DebugString(),
                                ", as MlpForward returned it, found shape ",
                                inputs.saved->shape().DebugString()));
    Workspace workspace;
    OP_REQUIRES_OK(c, workspace.Allocate(c, mlp));
    std::vector<const void*> hidden;
    for (const Tensor& activations : inputs.hidden) hidden.push_back(DeviceData(activations));
    const std::vector<const float*> kernels = FloatsOf(inputs.kernels);
    OP_REQUIRES_OK(
        c, MlpStatus(dlrm_mlp_backward(&mlp, DeviceData(*inputs.gradient), DeviceData(*inputs.y),
                                       DeviceData(*inputs.x), hidden.data(), kernels.data(),
                                       saved != 0 ? Align(*inputs.saved) : nullptr,
                                       input_gradient_ ? MutableDeviceData(*x_gradient) : nullptr,
                                       gradients.kernels(), gradients.biases(),
                                       Align(workspace.memory), workspace.bytes, StreamOf(c)),
                     "MLP gradient"));
  }

 private:
  bool input_gradient_;
};

#define DLRM_REGISTER(T)                                                              \
  REGISTER_KERNEL_BUILDER(                                                            \
      Name("Dlrm>MlpForward").Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"),  \
      GpuMlpForward<T>);                                                              \
  REGISTER_KERNEL_BUILDER(                                                            \
      Name("Dlrm>MlpBackward").Device(tensorflow::DEVICE_GPU).TypeConstraint<T>("T"), \
      GpuMlpBackward<T>);
DLRM_REGISTER(float)
DLRM_REGISTER(Eigen::half)
DLRM_REGISTER(tensorflow::bfloat16)
#undef DLRM_REGISTER

}  // namespace
}  // namespace dlrm
