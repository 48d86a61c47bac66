// Adds the loss of a step to the record: one thread.
#include "dense_update/dense_update_launchers.h"

#include "cuda_primitives.cuh"

namespace dlrm::gpu {
namespace {

__device__ __forceinline__ bool is_finite(float value) {
  return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
}

__global__ void __launch_bounds__(32) record_loss_kernel(DlrmLossRecord record) {
  if (threadIdx.x != 0) return;
  const float loss = *record.weights_finite != 0 ? *record.loss : __uint_as_float(0x7fc00000u);
  if (record.skips != 0) {
    *record.last = loss;
    if (*record.finite == 0) return;
  } else if (is_finite(*record.last)) {
    *record.last = loss;
  }
  *record.sum += static_cast<double>(loss);
  *record.steps += 1;
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" cudaError_t dlrm_record_loss(const DlrmLossRecord* record, cudaStream_t stream) {
  return dlrm::gpu::launch(dlrm::gpu::record_loss_kernel, 1, 32, 0, stream, *record);
}
