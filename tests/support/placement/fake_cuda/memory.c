// The driver: memory and copies.
#define _GNU_SOURCE
#include <cuda.h>
#include <string.h>

#include "calls.h"

#pragma GCC visibility push(default)

CUresult cuMemGetInfo(size_t* available, size_t* total) {
  *total = fake_bytes(kDevice);
  *available = *total / 2;
  return CUDA_SUCCESS;
}
CUresult cuMemAlloc(CUdeviceptr* result, size_t bytes) {
  fake_record("allocate", "device", bytes, NULL);
  *result = (CUdeviceptr)fake_allocate(kDevice, bytes);
  return *result != 0 ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemFree(CUdeviceptr address) {
  fake_record("free", "device", 0, NULL);
  return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void** result, size_t bytes, unsigned flags) {
  fake_record("allocate", "host", bytes, NULL);
  *result = fake_allocate(kPinned, bytes);
  return *result != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemFreeHost(void* address) {
  fake_record("free", "host", 0, NULL);
  return CUDA_SUCCESS;
}
CUresult cuMemHostRegister(void* address, size_t bytes, unsigned flags) { return CUDA_SUCCESS; }
CUresult cuMemHostUnregister(void* address) { return CUDA_SUCCESS; }
CUresult cuMemHostGetDevicePointer(CUdeviceptr* result, void* address, unsigned flags) {
  *result = (CUdeviceptr)address;
  return CUDA_SUCCESS;
}
CUresult cuMemGetAddressRange(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
  if (base != NULL) *base = address;
  if (bytes != NULL) *bytes = 512;
  return CUDA_SUCCESS;
}
CUresult cuPointerGetAttribute(void* result, CUpointer_attribute attribute, CUdeviceptr address) {
  const int on_device = fake_is_in(kDevice, (void*)address);
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *(unsigned*)result = on_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      *(int*)result = 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      *(int*)result = 0;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      *(CUcontext*)result = fake_context();
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

// A copy without a stream waits for all kernels before it.
#define COPY(name, to_type, from_type)                      \
  CUresult name(to_type to, from_type from, size_t bytes) { \
    fake_record("wait", "copy", bytes, NULL);               \
    fake_copy((void*)to, (const void*)from, bytes, NULL);   \
    return CUDA_SUCCESS;                                    \
  }
#define COPY_ASYNC(name, to_type, from_type)                                 \
  CUresult name(to_type to, from_type from, size_t bytes, CUstream stream) { \
    fake_copy((void*)to, (const void*)from, bytes, stream);                  \
    return CUDA_SUCCESS;                                                     \
  }
COPY(cuMemcpy, CUdeviceptr, CUdeviceptr)
COPY(cuMemcpyHtoD, CUdeviceptr, const void*)
COPY(cuMemcpyDtoH, void*, CUdeviceptr)
COPY(cuMemcpyDtoD, CUdeviceptr, CUdeviceptr)
COPY_ASYNC(cuMemcpyAsync, CUdeviceptr, CUdeviceptr)
COPY_ASYNC(cuMemcpyHtoDAsync, CUdeviceptr, const void*)
COPY_ASYNC(cuMemcpyDtoHAsync, void*, CUdeviceptr)
COPY_ASYNC(cuMemcpyDtoDAsync, CUdeviceptr, CUdeviceptr)

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
  fake_record("set", "", count, stream);
  memset((void*)to, value, count);
  return CUDA_SUCCESS;
}
CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) {
  return cuMemsetD8Async(to, value, count, NULL);
}
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) {
  fake_record("set", "", 4 * count, stream);
  for (size_t i = 0; i < count; ++i) ((unsigned*)to)[i] = value;
  return CUDA_SUCCESS;
}
CUresult cuMemsetD32(CUdeviceptr to, unsigned value, size_t count) {
  return cuMemsetD32Async(to, value, count, NULL);
}
