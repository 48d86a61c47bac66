// The runtime's functions that TensorFlow's kernels and the project's use.
#define _GNU_SOURCE
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"

#pragma GCC visibility push(default)

// {address of a kernel's host function: its name}: a hash table without removal.
enum { kSlots = 1 << 18 };
static struct {
  const void* function;
  const char* name;
} kernels[kSlots];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static size_t slot_of(const void* function) {
  size_t slot = ((size_t)function >> 4) * 2654435761u % kSlots;
  while (kernels[slot].function != NULL && kernels[slot].function != function) {
    slot = (slot + 1) % kSlots;
  }
  return slot;
}

static cudaError_t launch(const void* function, cudaStream_t stream) {
  pthread_mutex_lock(&mutex);
  const char* name = kernels[slot_of(function)].name;
  pthread_mutex_unlock(&mutex);
  fake_record("launch", name != NULL ? name : "unknown", 0, stream);
  return cudaSuccess;
}

void** __cudaRegisterFatBinary(void* binary) { return calloc(1, sizeof(void*)); }
void __cudaRegisterFatBinaryEnd(void** handle) {}
void __cudaUnregisterFatBinary(void** handle) {}
char __cudaInitModule(void** handle) { return 0; }
void __cudaRegisterVar(void** handle, char* host, char* address, const char* name, int ext,
                       size_t size, int constant, int global) {}
void __cudaRegisterManagedVar(void** handle, void** host, char* address, const char* name, int ext,
                              size_t size, int constant, int global) {}
void __cudaRegisterFunction(void** handle, const char* function, char* device, const char* name,
                            int limit, uint3* tid, uint3* bid, dim3* block, dim3* grid, int* warp) {
  pthread_mutex_lock(&mutex);
  const size_t slot = slot_of(function);
  kernels[slot].function = function;
  kernels[slot].name = name;
  pthread_mutex_unlock(&mutex);
}

static __thread struct {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
} configuration;

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configuration.grid = grid;
  configuration.block = block;
  configuration.shared = shared;
  configuration.stream = stream;
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *(cudaStream_t*)stream = configuration.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = (cudaKernel_t)function;
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared, cudaStream_t stream) {
  return launch(kernel, stream);
}
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t stream) {
  return launch(function, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
  return launch(function, config->stream);
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetLastError(void) { return cudaSuccess; }
cudaError_t cudaPeekAtLastError(void) { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t code) { return "FAKE"; }
const char* cudaGetErrorString(cudaError_t code) { return "fake CUDA runtime"; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, enum cudaDeviceAttr attribute, int device) {
  // The numbers are those of the driver's attributes.
  return (cudaError_t)cuDeviceGetAttribute(value, (CUdevice_attribute)attribute, device);
}
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp* p, int device) {
  memset(p, 0, sizeof(*p));
  strcpy(p->name, "Fake GPU");
  p->totalGlobalMem = fake_bytes(kDevice);
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerBlockOptin = 232448;
  p->sharedMemPerMultiprocessor = 233472;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->clockRate = 1980000;
  p->major = 9;
  p->multiProcessorCount = 132;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxBlocksPerMultiProcessor = 32;
  p->l2CacheSize = 52428800;
  p->unifiedAddressing = p->concurrentKernels = 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceSetSharedMemConfig(enum cudaSharedMemConfig config) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize(void) { return (cudaError_t)cuCtxSynchronize(); }
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes* attributes, const void* function) {
  memset(attributes, 0, sizeof(*attributes));
  attributes->maxThreadsPerBlock = 1024;
  attributes->maxDynamicSharedSizeBytes = 232448;
  attributes->numRegs = 32;
  attributes->ptxVersion = attributes->binaryVersion = 90;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* function, enum cudaFuncAttribute attribute,
                                 int value) {
  return cudaSuccess;
}
cudaError_t cudaFuncSetCacheConfig(const void* function, enum cudaFuncCache config) {
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks,
                                                                   const void* function,
                                                                   int threads, size_t shared,
                                                                   unsigned flags) {
  *blocks = 2;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int threads, size_t shared) {
  *blocks = 2;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  return (cudaError_t)cuMemGetInfo(available, total);
}
cudaError_t cudaMalloc(void** result, size_t bytes) {
  return (cudaError_t)cuMemAlloc((CUdeviceptr*)result, bytes);
}
cudaError_t cudaFree(void* address) { return (cudaError_t)cuMemFree((CUdeviceptr)address); }
cudaError_t cudaHostAlloc(void** result, size_t bytes, unsigned flags) {
  return (cudaError_t)cuMemHostAlloc(result, bytes, flags);
}
cudaError_t cudaFreeHost(void* address) { return (cudaError_t)cuMemFreeHost(address); }
cudaError_t cudaHostGetFlags(unsigned* flags, void* address) {
  *flags = 0;
  return cudaSuccess;
}
cudaError_t cudaHostGetDevicePointer(void** result, void* address, unsigned flags) {
  *result = address;
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, enum cudaMemcpyKind kind) {
  return (cudaError_t)cuMemcpy((CUdeviceptr)to, (CUdeviceptr)from, bytes);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return (cudaError_t)cuMemcpyAsync((CUdeviceptr)to, (CUdeviceptr)from, bytes, stream);
}
cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes, size_t offset,
                               enum cudaMemcpyKind kind) {
  fake_record("HtoD", "symbol", bytes, NULL);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return (cudaError_t)cuMemsetD8Async((CUdeviceptr)to, value, bytes, stream);
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, NULL);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return (cudaError_t)cuStreamCreate(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return (cudaError_t)cuCtxGetStreamPriorityRange(least, greatest);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return (cudaError_t)cuStreamSynchronize(stream);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return (cudaError_t)cuEventCreate(event, flags);
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return (cudaError_t)cuEventDestroy(event); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return (cudaError_t)cuEventRecord(event, stream);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return (cudaError_t)cuEventSynchronize(event);
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  *milliseconds = 0.001f;
  return cudaSuccess;
}
