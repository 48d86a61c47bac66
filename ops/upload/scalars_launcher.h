// Plain launcher that brings a few scalars to the device.
#ifndef DLRM_OPS_UPLOAD_SCALARS_LAUNCHER_H_
#define DLRM_OPS_UPLOAD_SCALARS_LAUNCHER_H_

#include <cuda_runtime_api.h>
#include <stdint.h>

extern "C" {

// The most scalars of one call.
enum { DLRM_MOST_SCALARS = 32 };

// target[i] = values[i] for i < count; `values` is host memory, read before the call returns, and
// `target` device memory. They travel as arguments of a kernel: no copy between host and device
// that would wait for either.
cudaError_t dlrm_scalars_on_device(const float* values, int64_t count, float* target,
                                   cudaStream_t stream);

}  // extern "C"

#endif  // DLRM_OPS_UPLOAD_SCALARS_LAUNCHER_H_
