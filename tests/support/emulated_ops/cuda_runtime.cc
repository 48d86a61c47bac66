// The CUDA runtime's functions that TensorFlow's GPU kernels call, on host memory.

#include <cuda_runtime_api.h>

#include <cstring>

extern "C" {

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

const char* cudaGetErrorName(cudaError_t code) {
  return code == cudaErrorInvalidValue ? "cudaErrorInvalidValue" : "cudaError";
}

const char* cudaGetErrorString(cudaError_t) { return "reported by the emulated GPU"; }

}  // extern "C"
