// The result of a CUDA call in host code without TensorFlow.
#ifndef DLRM_OPS_CUDA_RESULT_H_
#define DLRM_OPS_CUDA_RESULT_H_

#include <cuda_runtime_api.h>

namespace dlrm {

// Result of a CUDA call, with what it was for.
struct CudaResult {
  cudaError_t code = cudaSuccess;
  const char* what = "";
};

}  // namespace dlrm

// Returns a CudaResult from the calling function if `call` fails.
#define DLRM_RETURN_IF_CUDA_ERROR(call, purpose)                       \
  do {                                                                 \
    const cudaError_t code = (call);                                   \
    if (code != cudaSuccess) return ::dlrm::CudaResult{code, purpose}; \
  } while (false)

#endif  // DLRM_OPS_CUDA_RESULT_H_
