// Brings scalars of the host to the device: one thread per scalar, values as kernel parameters.
#include "upload/scalars_launcher.h"

#include "cuda_primitives.cuh"

namespace dlrm::gpu {
namespace {

struct Scalars {
  float value[DLRM_MOST_SCALARS];
};

__global__ void __launch_bounds__(DLRM_MOST_SCALARS)
    scalars_kernel(const __grid_constant__ Scalars scalars, int count, float* __restrict__ target) {
  const int index = static_cast<int>(threadIdx.x);
  if (index < count) target[index] = scalars.value[index];
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" cudaError_t dlrm_scalars_on_device(const float* values, int64_t count, float* target,
                                              cudaStream_t stream) {
  if (count < 0 || count > DLRM_MOST_SCALARS) return cudaErrorInvalidValue;
  if (count == 0) return cudaSuccess;
  dlrm::gpu::Scalars scalars = {};
  for (int64_t i = 0; i < count; ++i) scalars.value[i] = values[i];
  return dlrm::gpu::launch(dlrm::gpu::scalars_kernel, 1, DLRM_MOST_SCALARS, 0, stream, scalars,
                           static_cast<int>(count), target);
}
