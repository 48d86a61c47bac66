// Included before everything else when TensorFlow's GPU kernels are compiled for the emulated GPU:
// they become kernels of TensorFlow's CPU device, which are preferred to the CPU's own.
#ifndef DLRM_TESTS_SUPPORT_EMULATED_OPS_CPU_DEVICE_H_
#define DLRM_TESTS_SUPPORT_EMULATED_OPS_CPU_DEVICE_H_

#define StreamOf StreamOfGpu
#include "gpu_stream.h"
#undef StreamOf

#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"

namespace dlrm {

// The emulation runs a kernel when it is launched: there are no streams.
inline cudaStream_t StreamOf(tensorflow::OpKernelContext*) { return nullptr; }

}  // namespace dlrm

// In registrations of kernels, REGISTER_KERNEL_BUILDER(Name(...).Device(DEVICE_GPU) ...).
#define DEVICE_GPU DEVICE_CPU
#undef TF_EXTRACT_KERNEL_NAME_Name
#define TF_EXTRACT_KERNEL_NAME_Name(name) \
  name, ::tensorflow::register_kernel::Name(name).Priority(1)

#endif  // DLRM_TESTS_SUPPORT_EMULATED_OPS_CPU_DEVICE_H_
