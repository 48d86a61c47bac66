// What the forward and the backward CUDA kernels share: on the device copies of samples into shared
// memory, a warp's walk over them, matrix fragments and sums; on the host the choice of a kernel by
// element type, shape and alignment, and its launch.
#ifndef DLRM_OPS_DOT_INTERACTION_TILES_CUH_
#define DLRM_OPS_DOT_INTERACTION_TILES_CUH_

#include "cuda_elements.cuh"
#include "dot_interaction/dot_interaction_launchers.h"
#include "dot_interaction/dot_interaction_layout.h"

namespace dlrm::gpu {

// A fragment as the matrix instructions take it: 16-bit elements unchanged.
template <typename T>
struct Fragment {
  uint32_t high[4];

  __device__ __forceinline__ void assign(const uint32_t (&bits)[4]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) high[r] = bits[r];
  }
};

// float32 as the sum of two TF32 numbers: 11 + 11 bits of the mantissa.
template <>
struct Fragment<float> {
  uint32_t high[4];
  uint32_t low[4];

  __device__ __forceinline__ void assign(const uint32_t (&bits)[4]) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float value = __uint_as_float(bits[r]);
      high[r] = round_to_tf32(value);
      low[r] = round_to_tf32(value - __uint_as_float(high[r]));
    }
  }
};

// Sums of products. Tensor cores cut a sum towards zero at every step, so the products with low
// parts, which are 2^-11 of the others, have a sum of their own: with one sum for all three there
// would be three cuts of the large sum instead of one.
template <typename T>
struct Accumulator {
  float large[4] = {};
  __device__ __forceinline__ float sum(int r) const { return large[r]; }
};
template <>
struct Accumulator<float> {
  float large[4] = {};
  float small[4] = {};
  __device__ __forceinline__ float sum(int r) const { return large[r] + small[r]; }
};

// acc += a b, where b's two registers are b.high[r0] and b.high[r1].
template <int r0, int r1, typename T>
__device__ __forceinline__ void multiply_add(Accumulator<T>& acc, const Fragment<T>& a,
                                             const Fragment<T>& b) {
  matrix_multiply_add(acc.large, a.high, b.high[r0], b.high[r1], T());
  if constexpr (sizeof(T) == 4) {
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

// Takes a warp through its samples with two stages of shared memory: while work(stage, sample)
// runs, copy(stage, sample) has the next sample on its way into the other stage.
template <typename Copy, typename Work>
__device__ __forceinline__ void for_each_sample(int64_t batch, Copy copy, Work work) {
  const int warps = blockDim.x / 32;
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps;
  int64_t sample = static_cast<int64_t>(blockIdx.x) * warps + threadIdx.x / 32;
  int stage = 0;
  if (sample < batch) copy(0, sample);
  copy_async_commit();
  for (; sample < batch; sample += step) {
    if (sample + step < batch) copy(stage ^ 1, sample + step);
    copy_async_commit();
    copy_async_wait<1>();
    __syncwarp();
    work(stage, sample);
    // The next round copies over this stage.
    __syncwarp();
    stage ^= 1;
  }
}

// The kernels for every shape: 256 threads take one sample at a time, each thread four elements of
// a 32 x 32 tile.
constexpr int kGenericThreads = 256;
constexpr int kTile = 32;
constexpr int kTileRows = kGenericThreads / kTile;  // that the threads take at once
using Tile = float[kTile][kTile + 1];

// Tile 0 or 1 of the block.
__device__ __forceinline__ Tile& tile_in_shared_memory(int index) {
  return reinterpret_cast<Tile*>(shared_memory())[index];
}

// Element d of row i; 0 beyond the rows.
template <typename T>
__device__ __forceinline__ float element_or_zero(const T* bottom, const T* vectors, int64_t i,
                                                 int64_t d, int64_t features, int64_t dim) {
  return i < features && d < dim ? to_float(i == 0 ? bottom[d] : vectors[(i - 1) * dim + d]) : 0.0f;
}

// The tensor-core kernels hold one sample in a warp's fragments: at most two tiles of 16 rows.
constexpr int kFastFeatures = 32;
constexpr int kFastDim = 256;

inline bool is_valid(const DlrmInteractionShape& shape) {
  return shape.batch >= 0 && shape.features >= 1 && shape.dim >= 1;
}

template <typename T>
bool takes_fast_kernel(const DlrmInteractionShape& shape) {
  return shape.features <= kFastFeatures && shape.dim <= kFastDim &&
         shape.dim * sizeof(T) % 16 == 0;
}

// An instance of a tensor-core kernel: D, or 0 where it is known at run time; tiles of 16 rows.
template <int dim, int tiles>
struct Instance {
  static constexpr int kDim = dim;
  static constexpr int kTiles = tiles;
};

// Calls `body` with the instance for a shape that takes the tensor-core kernel.
template <typename Body>
cudaError_t with_instance(const DlrmInteractionShape& shape, Body body) {
  if (shape.features <= 16) return body(Instance<0, 1>());
  if (shape.dim == 128) return body(Instance<128, 2>());
  return body(Instance<0, 2>());
}

// Launches a tensor-core kernel: two warps a block, or one where their memory does not fit.
template <typename... Parameters>
cudaError_t launch_warps(void (*kernel)(Parameters...), int64_t batch, int warp_pieces,
                         cudaStream_t stream, const std::common_type_t<Parameters>&... arguments) {
  const size_t warp_bytes = warp_pieces * size_t{16};
  size_t limit = 0;
  const cudaError_t status = shared_memory_limit(&limit);
  if (status != cudaSuccess) return status;
  const int warps = 2 * warp_bytes <= limit ? 2 : 1;
  return launch(kernel, (batch + warps - 1) / warps, 32 * warps, warps * warp_bytes, stream,
                arguments...);
}

// Launches a kernel for every shape.
template <typename... Parameters>
cudaError_t launch_generic(void (*kernel)(Parameters...), int64_t batch, cudaStream_t stream,
                           const std::common_type_t<Parameters>&... arguments) {
  return launch(kernel, batch, kGenericThreads, 2 * sizeof(Tile), stream, arguments...);
}

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_DOT_INTERACTION_TILES_CUH_
