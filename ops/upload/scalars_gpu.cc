// TensorFlow GPU kernel that brings scalars to the device.

// First: it prepares Eigen for GPUs.
#include "gpu_stream.h"

#include "upload/scalars_launcher.h"

namespace dlrm {
namespace {

class GpuScalarsKernel : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* c) override {
    const tensorflow::Tensor& values = c->input(0);
    const int64_t count = values.NumElements();
    OP_REQUIRES(c, count <= DLRM_MOST_SCALARS,
                InvalidArgument("scalars on device: expected at most ", int{DLRM_MOST_SCALARS},
                                " values, found ", count));
    tensorflow::Tensor* target = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, values.shape(), &target));
    OP_REQUIRES_OK(
        c, CudaStatus(dlrm_scalars_on_device(
                          reinterpret_cast<const float*>(DeviceData(values)), count,
                          reinterpret_cast<float*>(MutableDeviceData(*target)), StreamOf(c)),
                      "scalars on device"));
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Dlrm>ScalarsOnDevice").Device(tensorflow::DEVICE_GPU).HostMemory("values"),
    GpuScalarsKernel);

}  // namespace
}  // namespace dlrm
