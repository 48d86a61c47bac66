// Index maps and element conversions shared by the dot-interaction kernels.
#ifndef DLRM_OPS_DOT_INTERACTION_TILES_CUH_
#define DLRM_OPS_DOT_INTERACTION_TILES_CUH_

#include "cuda_primitives.cuh"

namespace dlrm::gpu {

// The tensor-core kernels hold one sample in a warp's fragments: at most two tiles of 16 rows.
constexpr int kFastFeatures = 32;
constexpr int kFastDim = 256;

__host__ __device__ constexpr int64_t pair_count(int64_t features) {
  return features * (features - 1) / 2;
}

// Column of the pair (i, j), i > j, counted from the first pair.
__host__ __device__ constexpr int64_t pair_index(int64_t i, int64_t j) {
  return i * (i - 1) / 2 + j;
}

__host__ __device__ constexpr int64_t output_width(int64_t features, int64_t dim) {
  return (dim + pair_count(features) + 7) / 8 * 8;
}

__host__ __device__ constexpr int round_up(int value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Where the samples lie; one set of pointers serves both the one-input and the two-input form.
template <typename T>
struct FeatureRows {
  T* bottom;
  int64_t bottom_stride;
  T* vectors;
  int64_t vectors_stride;
};

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

// A fragment as the matrix instructions take it. 16-bit elements pass as they are.
template <typename T, bool kSplit>
struct Fragment {
  uint32_t high[4];

  __device__ __forceinline__ void assign(const uint32_t (&bits)[4]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) high[r] = bits[r];
  }
};

// float32 as one TF32 number, or (kSplit) as the sum of two: 11 + 11 bits of the mantissa.
template <bool kSplit>
struct Fragment<float, kSplit> {
  uint32_t high[4];
  uint32_t low[4];

  __device__ __forceinline__ void assign(const uint32_t (&bits)[4]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float value = __uint_as_float(bits[r]);
      high[r] = round_to_tf32(value);
      low[r] = kSplit ? round_to_tf32(value - __uint_as_float(high[r])) : 0u;
    }
  }
};

// Sums of products. Tensor cores cut a sum towards zero at every step, so the products with low
// parts, which are 2^-11 of the others, have a sum of their own: with one sum for all three there
// would be three cuts of the large sum instead of one.
template <typename T, bool kSplit>
struct Accumulator {
  float large[4] = {};
  __device__ __forceinline__ float sum(int r) const { return large[r]; }
};
template <>
struct Accumulator<float, true> {
  float large[4] = {};
  float small[4] = {};
  __device__ __forceinline__ float sum(int r) const { return large[r] + small[r]; }
};

// acc += a b, where b's two registers are b.high[r0] and b.high[r1].
template <int r0, int r1, typename T, bool kSplit>
__device__ __forceinline__ void multiply_add(Accumulator<T, kSplit>& acc,
                                             const Fragment<T, kSplit>& a,
                                             const Fragment<T, kSplit>& b) {
  matrix_multiply_add(acc.large, a.high, b.high[r0], b.high[r1], T());
  if constexpr (sizeof(T) == 4 && kSplit) {
    // low x low is below float32's own rounding.
    matrix_multiply_add(acc.small, a.low, b.high[r0], b.high[r1], T());
    matrix_multiply_add(acc.small, a.high, b.low[r0], b.low[r1], T());
  }
}

// Starts the copy of `chunks` 16-byte pieces of one sample, row after row, into rows of
// `row_stride` pieces in shared memory. All lanes of the warp take part.
template <typename T>
__device__ __forceinline__ void copy_rows_async(uint4* tile, const FeatureRows<const T>& rows,
                                                int64_t sample, int features, int chunks,
                                                int row_stride, int lane) {
  const uint4* bottom = reinterpret_cast<const uint4*>(rows.bottom + sample * rows.bottom_stride);
  const uint4* vectors =
      reinterpret_cast<const uint4*>(rows.vectors + sample * rows.vectors_stride);
  const int total = features * chunks;
#pragma unroll 4
  for (int c = lane; c < total; c += 32) {
    const int row = c / chunks;
    const uint4* source = c < chunks ? bottom + c : vectors + (c - chunks);
    copy_async_16(tile + row * row_stride + (c - row * chunks), source);
  }
}

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_DOT_INTERACTION_TILES_CUH_
