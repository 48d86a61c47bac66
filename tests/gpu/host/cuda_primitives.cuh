// Replaces ops/cuda_primitives.cuh when the kernels are compiled for the CPU: the same names, with
// the semantics of the PTX manual, on fibers (emulation.h).
#ifndef DLRM_TESTS_GPU_HOST_CUDA_PRIMITIVES_CUH_
#define DLRM_TESTS_GPU_HOST_CUDA_PRIMITIVES_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "emulation.h"

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__
#undef __forceinline__
#define __forceinline__ inline
#define threadIdx (dlrm_host::place.thread)
#define blockIdx (dlrm_host::place.block)
#define blockDim (dlrm_host::place.block_size)
#define gridDim (dlrm_host::place.grid_size)

inline void __syncthreads() { dlrm_host::meet_block(); }
inline void __syncwarp() { dlrm_host::meet_warp(nullptr, 0); }

template <typename To, typename From>
To dlrm_bits(From value) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}
inline float __uint_as_float(unsigned bits) { return dlrm_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return dlrm_bits<unsigned>(value); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}

namespace dlrm_host {

inline void require_full(unsigned mask) {
  if (mask != 0xffffffffu) {
    std::fprintf(stderr, "a warp-wide operation with only part of the warp\n");
    std::abort();
  }
}

template <typename T>
T deposit_of(const unsigned char* deposits, int lane) {
  T value;
  std::memcpy(&value, deposits + 64 * (lane % 32), sizeof(T));
  return value;
}

}  // namespace dlrm_host

template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  dlrm_host::require_full(mask);
  return dlrm_host::deposit_of<T>(dlrm_host::meet_warp(&value, sizeof(T)), lane);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int other) {
  dlrm_host::require_full(mask);
  return dlrm_host::deposit_of<T>(dlrm_host::meet_warp(&value, sizeof(T)),
                                  static_cast<int>(threadIdx.x % 32) ^ other);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  dlrm_host::require_full(mask);
  const unsigned lane = threadIdx.x % 32;
  const auto* all = dlrm_host::meet_warp(&value, sizeof(T));
  return lane < delta ? value : dlrm_host::deposit_of<T>(all, static_cast<int>(lane - delta));
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value) {
  dlrm_host::require_full(mask);
  const auto* all = dlrm_host::meet_warp(&value, sizeof(T));
  unsigned same = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (dlrm_host::deposit_of<T>(all, lane) == value) same |= 1u << lane;
  }
  return same;
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  dlrm_host::require_full(mask);
  const auto* all = dlrm_host::meet_warp(&predicate, sizeof(int));
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (dlrm_host::deposit_of<int>(all, lane) != 0) votes |= 1u << lane;
  }
  return votes;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) == 0xffffffffu;
}

// Runtime calls of the launchers, on host memory.
inline cudaError_t dlrm_host_alloc(void** memory, size_t bytes, unsigned) {
  *memory = std::malloc(bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
#define cudaHostAlloc dlrm_host_alloc

namespace dlrm::gpu {

constexpr unsigned kFullWarp = 0xffffffffu;

inline unsigned char* shared_memory() { return dlrm_host::block_memory(); }

inline void require_aligned(const void* address, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    std::fprintf(stderr, "%s at an address that is not a multiple of %zu\n", what, bytes);
    std::abort();
  }
}

inline void copy_async_16(void* shared, const void* global) {
  require_aligned(shared, 16, "asynchronous copy to shared memory");
  require_aligned(global, 16, "asynchronous copy from device memory");
  dlrm_host::copy_later(shared, global, 16);
}
template <int kBytes>
void copy_async_small(void* shared, const void* global) {
  static_assert(kBytes == 4 || kBytes == 8, "cp.async copies 4, 8 or 16 bytes");
  require_aligned(shared, kBytes, "asynchronous copy to shared memory");
  require_aligned(global, kBytes, "asynchronous copy from device memory");
  dlrm_host::copy_later(shared, global, kBytes);
}
inline void copy_async_commit() { dlrm_host::commit_copies(); }
template <int kPending>
void copy_async_wait() {
  dlrm_host::wait_copies(kPending);
}

// ldmatrix: lanes 8q..8q+7 name the rows of matrix q; lane l receives of each matrix the 32 bits
// at row l / 4, word l % 4.
inline void load_matrices(uint32_t (&out)[4], const void* row) {
  require_aligned(row, 16, "matrix row");
  const auto* all = dlrm_host::meet_warp(&row, sizeof(row));
  const int lane = threadIdx.x % 32;
  for (int q = 0; q < 4; ++q) {
    const auto* words = dlrm_host::deposit_of<const unsigned char*>(all, 8 * q + lane / 4);
    std::memcpy(&out[q], words + 4 * (lane % 4), 4);
  }
}

// ldmatrix.trans: lane l receives the 16-bit elements (2 (l % 4), l / 4) and
// (2 (l % 4) + 1, l / 4).
inline void load_matrices_transposed(uint32_t (&out)[4], const void* row) {
  require_aligned(row, 16, "matrix row");
  const auto* all = dlrm_host::meet_warp(&row, sizeof(row));
  const int lane = threadIdx.x % 32;
  for (int q = 0; q < 4; ++q) {
    uint16_t pair[2];
    for (int h = 0; h < 2; ++h) {
      const auto* elements =
          dlrm_host::deposit_of<const unsigned char*>(all, 8 * q + lane % 4 * 2 + h);
      std::memcpy(&pair[h], elements + 2 * (lane / 4), 2);
    }
    std::memcpy(&out[q], pair, 4);
  }
}

struct MatrixOperands {
  float acc[4];
  uint32_t a[4];
  uint32_t b[2];
};

inline float element_of(uint32_t word, int, float) { return __uint_as_float(word & 0xffffe000u); }
inline float element_of(uint32_t word, int half, __half) {
  __half_raw raw;
  raw.x = static_cast<uint16_t>(word >> 16 * half);
  return __half2float(__half(raw));
}
inline float element_of(uint32_t word, int half, __nv_bfloat16) {
  return __uint_as_float((word >> 16 * half & 0xffffu) << 16);
}

// `value` rounded to float towards zero.
inline float toward_zero(double value) {
  const float nearest = static_cast<float>(value);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(value) ? std::nextafterf(nearest, 0.0f)
                                                                    : nearest;
}

// Tensor cores do not round like float32 arithmetic, and PTX does not specify how. This follows
// Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer
// Science, 2021, with the lowest accuracy of all GPUs that have mma.sync for these types: a few
// exact products at a time are aligned with the running sum to the largest exponent among them,
// truncated to one bit more than float32 has and added, and the result is truncated to float32.
// All truncations are towards zero, so that errors do not cancel.
inline float add_as_tensor_cores(float sum, const double* products, int count) {
  double largest = std::fabs(static_cast<double>(sum));
  for (int k = 0; k < count; ++k) largest = std::max(largest, std::fabs(products[k]));
  if (largest == 0 || !std::isfinite(largest)) {
    double total = sum;
    for (int k = 0; k < count; ++k) total += products[k];
    return static_cast<float>(total);
  }
  const double unit = std::ldexp(1.0, std::ilogb(largest) - 24);
  double total = std::trunc(sum / unit);
  for (int k = 0; k < count; ++k) total += std::trunc(products[k] / unit);
  return toward_zero(total * unit);
}

// mma.sync.m16n8k16 (16-bit) and m16n8k8 (TF32). With p elements per register, a lane holds
// A rows lane / 4 + 8 (r % 2), columns p (lane % 4 + 4 (r / 2)) + h; B columns lane / 4, rows
// p (lane % 4 + 4 r) + h; C rows lane / 4 + 8 (r / 2), columns 2 (lane % 4) + r % 2.
template <typename T>
void matrix_multiply_add(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  constexpr int p = 4 / static_cast<int>(sizeof(T));
  MatrixOperands own;
  std::memcpy(own.acc, acc, sizeof(acc));
  std::memcpy(own.a, a, sizeof(a));
  own.b[0] = b0;
  own.b[1] = b1;
  const auto* all = dlrm_host::meet_warp(&own, sizeof(own));
  const int lane = threadIdx.x % 32;
  for (int r = 0; r < 4; ++r) {
    const int row = lane / 4 + 8 * (r / 2), column = 2 * (lane % 4) + r % 2;
    double products[8 * p];
    for (int k = 0; k < 8 * p; ++k) {
      const int group = k / p % 4, half = k % p, upper = k / (4 * p);
      const auto left = dlrm_host::deposit_of<MatrixOperands>(all, row % 8 * 4 + group);
      const auto right = dlrm_host::deposit_of<MatrixOperands>(all, column * 4 + group);
      products[k] = static_cast<double>(element_of(left.a[row / 8 + 2 * upper], half, T())) *
                    element_of(right.b[upper], half, T());
    }
    acc[r] = add_as_tensor_cores(acc[r], products, 4 * p);
    acc[r] = add_as_tensor_cores(acc[r], products + 4 * p, 4 * p);
  }
}

inline uint32_t round_to_tf32(float value) {
  return (__float_as_uint(value) + 0x1000u) & 0xffffe000u;
}

inline void reduce_add(float* address, float4 value) {
  require_aligned(address, 16, "vector reduction");
  dlrm_host::access_elements(address, 4, true);
  address[0] += value.x;
  address[1] += value.y;
  address[2] += value.z;
  address[3] += value.w;
}
inline void reduce_add(float* address, float value) {
  dlrm_host::access_elements(address, 1, true);
  *address += value;
}

inline uint32_t set_bits(uint32_t* word, uint32_t bits) {
  const uint32_t before = *word;
  *word |= bits;
  return before;
}
inline uint32_t take_number(uint32_t* counter) { return (*counter)++; }

template <typename T>
T load_owned(const T* address, bool active) {
  if (!active) return T{};
  require_aligned(address, sizeof(T), "load");
  dlrm_host::access_elements(reinterpret_cast<const float*>(address), sizeof(T) / sizeof(float),
                             false);
  return *address;
}
template <typename T>
void store_owned(T* address, T value) {
  require_aligned(address, sizeof(T), "store");
  dlrm_host::access_elements(reinterpret_cast<const float*>(address), sizeof(T) / sizeof(float),
                             false);
  *address = value;
}

template <typename T>
void store_streaming(T* address, T value) {
  require_aligned(address, sizeof(T), "store");
  *address = value;
}
template <typename T>
T load_read_only(const T* address) {
  require_aligned(address, sizeof(T), "load");
  return *address;
}

template <typename T>
T load_read_only(const T* address, bool active) {
  return active ? load_read_only(address) : T{};
}
template <typename T>
T load_in_order(const T* address) {
  return load_read_only(address);
}

template <typename Fill>
void publish_once(int32_t* state, Fill fill) {
  if (*state == 0) {
    fill();
    *state = 2;
  }
}

inline cudaError_t fill_memory(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}
inline cudaError_t clear_memory(void* memory, size_t bytes, cudaStream_t stream) {
  return fill_memory(memory, 0, bytes, stream);
}

inline cudaError_t current_device(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t shared_memory_limit(size_t* bytes) {
  *bytes = 227 * 1024;  // as on sm_90
  return cudaSuccess;
}

// A device of three multiprocessors with two blocks each, so that grid-stride loops repeat.
template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks_of_work, int threads,
                   size_t shared_bytes, cudaStream_t,
                   const std::common_type_t<Parameters>&... args) {
  if (blocks_of_work <= 0) return cudaSuccess;
  if (shared_bytes > 227 * 1024) return cudaErrorInvalidConfiguration;
  dlrm_host::run_grid(static_cast<unsigned>(std::min<int64_t>(blocks_of_work, 6)),
                      static_cast<unsigned>(threads), shared_bytes, [&] { kernel(args...); });
  return cudaSuccess;
}
template <typename... Parameters>
cudaError_t launch_cached(void (*kernel)(Parameters...), int64_t blocks_of_work, int threads,
                          size_t shared_bytes, cudaStream_t stream,
                          const std::common_type_t<Parameters>&... args) {
  return launch(kernel, blocks_of_work, threads, shared_bytes, stream, args...);
}

}  // namespace dlrm::gpu

#endif  // DLRM_TESTS_GPU_HOST_CUDA_PRIMITIVES_CUH_
