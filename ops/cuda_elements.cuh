// Element types of the CUDA kernels: conversions from and to float32, and the type of a DlrmDType.
#ifndef DLRM_OPS_CUDA_ELEMENTS_CUH_
#define DLRM_OPS_CUDA_ELEMENTS_CUH_

// In angle brackets: in quotes, this folder would hide the emulation's replacement.
#include <cuda_primitives.cuh>

#include "cuda_types.h"

namespace dlrm::gpu {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Two neighbouring elements, stored with one instruction.
__device__ __forceinline__ void store_pair(float* address, float first, float second) {
  *reinterpret_cast<float2*>(address) = make_float2(first, second);
}
__device__ __forceinline__ void store_pair(__half* address, float first, float second) {
  *reinterpret_cast<__half2*>(address) = __floats2half2_rn(first, second);
}
__device__ __forceinline__ void store_pair(__nv_bfloat16* address, float first, float second) {
  *reinterpret_cast<__nv_bfloat162*>(address) = __floats2bfloat162_rn(first, second);
}

// Calls `body` with a value of the element type.
template <typename Body>
cudaError_t with_element_type(int dtype, Body body) {
  switch (dtype) {
    case DLRM_FLOAT32:
      return body(float{});
    case DLRM_FLOAT16:
      return body(__half{});
    case DLRM_BFLOAT16:
      return body(__nv_bfloat16{});
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_CUDA_ELEMENTS_CUH_
