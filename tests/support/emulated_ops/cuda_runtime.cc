// The CUDA runtime's functions that TensorFlow's GPU kernels call, on host memory.

#include <cuda_runtime_api.h>

#include <cstring>

// Kernels run when they are launched, in whichever stream: waits have nothing to wait for.
struct CUstream_st {};
struct CUevent_st {
  bool recorded = false;
};

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->recorded = true;
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
  return event->recorded ? cudaSuccess : cudaErrorInvalidValue;
}

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
