// Whether all elements of some tensors are finite: reads them once, with accesses of 16 bytes.
#include "log_loss/log_loss_launchers.h"

#include "cuda_elements.cuh"

namespace dlrm::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 4;                            // of a thread, in flight
constexpr int64_t kUnitVectors = kThreads * kLoads;  // 16 bytes each, of a block

// Exponents are all ones in an element that is infinite or NaN: adding kOne to the exponents of a
// word then sets the sign bit, which was masked.
template <typename T>
struct Exponents;
template <>
struct Exponents<float> {
  static constexpr uint32_t kMask = 0x7f800000u, kOne = 0x00800000u, kSign = 0x80000000u;
};
template <>
struct Exponents<__half> {
  static constexpr uint32_t kMask = 0x7c007c00u, kOne = 0x04000400u, kSign = 0x80008000u;
};
template <>
struct Exponents<__nv_bfloat16> {
  static constexpr uint32_t kMask = 0x7f807f80u, kOne = 0x00800080u, kSign = 0x80008000u;
};

template <typename T>
__device__ __forceinline__ uint32_t not_finite(uint32_t word) {
  return ((word & Exponents<T>::kMask) + Exponents<T>::kOne) & Exponents<T>::kSign;
}
template <typename T>
__device__ __forceinline__ uint32_t not_finite(const float4& v) {
  return not_finite<T>(__float_as_uint(v.x)) | not_finite<T>(__float_as_uint(v.y)) |
         not_finite<T>(__float_as_uint(v.z)) | not_finite<T>(__float_as_uint(v.w));
}
template <typename T>
__device__ __forceinline__ uint32_t not_finite_element(const T* address) {
  const T value = load_in_order(address);
  uint32_t word = 0;
  memcpy(&word, static_cast<const void*>(&value), sizeof(value));
  return not_finite<T>(word);
}

// Tensor i has the units [first_unit[i], first_unit[i + 1]). Its first one also checks the elements
// before and after the aligned vectors.
struct Tensors {
  const void* data[DLRM_ALL_FINITE_MOST_TENSORS];
  int64_t size[DLRM_ALL_FINITE_MOST_TENSORS];
  int64_t first_unit[DLRM_ALL_FINITE_MOST_TENSORS + 1];
  int count;
};

// The aligned vectors of a tensor.
template <typename T>
struct Parts {
  int64_t head, vectors;  // elements before the vectors, and number of vectors

  __host__ __device__ Parts(const void* data, int64_t size) {
    constexpr int64_t kVec = 16 / sizeof(T);
    const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(data) % 16 / sizeof(T));
    head = (kVec - past) % kVec < size ? (kVec - past) % kVec : size;
    vectors = (size - head) / kVec;
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    all_finite_kernel(const __grid_constant__ Tensors tensors, unsigned char* finite) {
  constexpr int kVec = 16 / static_cast<int>(sizeof(T));
  uint32_t bad = 0;
  int tensor = 0;
  for (int64_t unit = blockIdx.x; unit < tensors.first_unit[tensors.count]; unit += gridDim.x) {
    while (unit >= tensors.first_unit[tensor + 1]) ++tensor;
    const T* const data = static_cast<const T*>(tensors.data[tensor]);
    const int64_t size = tensors.size[tensor];
    const Parts<T> parts(data, size);
    const int64_t number = unit - tensors.first_unit[tensor];
    const float4* const vectors = reinterpret_cast<const float4*>(data + parts.head);
    const int64_t index = number * kUnitVectors + threadIdx.x;
    if ((number + 1) * kUnitVectors <= parts.vectors) {
      float4 loaded[kLoads];
#pragma unroll
      for (int k = 0; k < kLoads; ++k) loaded[k] = load_read_only(vectors + index + k * kThreads);
#pragma unroll
      for (int k = 0; k < kLoads; ++k) bad |= not_finite<T>(loaded[k]);
    } else {
      for (int64_t k = index; k < parts.vectors; k += kThreads) {
        bad |= not_finite<T>(load_read_only(vectors + k));
      }
    }
    if (number == 0 && threadIdx.x < kVec) {
      if (threadIdx.x < parts.head) bad |= not_finite_element(data + threadIdx.x);
      const int64_t after = parts.head + parts.vectors * kVec + threadIdx.x;
      if (after < size) bad |= not_finite_element(data + after);
    }
  }
  if (bad != 0) *finite = 0;
}

template <typename T>
cudaError_t run(const void* const* tensors, const int64_t* sizes, int64_t count,
                unsigned char* finite, cudaStream_t stream) {
  Tensors listed = {};
  for (int64_t i = 0; i < count; ++i) {
    if (sizes[i] < 0 || reinterpret_cast<uintptr_t>(tensors[i]) % sizeof(T) != 0) {
      return cudaErrorInvalidValue;
    }
    if (sizes[i] == 0) continue;
    const int64_t vectors = Parts<T>(tensors[i], sizes[i]).vectors;
    const int64_t units = (vectors + kUnitVectors - 1) / kUnitVectors;
    listed.data[listed.count] = tensors[i];
    listed.size[listed.count] = sizes[i];
    listed.first_unit[listed.count + 1] = listed.first_unit[listed.count] + (units > 0 ? units : 1);
    ++listed.count;
  }
  const cudaError_t status = fill_memory(finite, 1, 1, stream);
  if (status != cudaSuccess) return status;
  return launch(all_finite_kernel<T>, listed.first_unit[listed.count], kThreads, 0, stream, listed,
                finite);
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" cudaError_t dlrm_all_finite(const void* const* tensors, const int64_t* sizes,
                                       int64_t count, int32_t dtype, unsigned char* finite,
                                       cudaStream_t stream) {
  if (count < 0 || count > DLRM_ALL_FINITE_MOST_TENSORS) return cudaErrorInvalidValue;
  return dlrm::gpu::with_element_type(dtype, [&](auto element) {
    return dlrm::gpu::run<decltype(element)>(tensors, sizes, count, finite, stream);
  });
}
