// Dot interaction, forward.
//
// Tensor-core kernel (F <= 32, D <= 256, 16-byte aligned rows): one warp per sample and no
// block-wide barrier. While a warp multiplies one sample, the next one is copied into the other
// half of its shared memory; every element is read from device memory once and every output row
// written once with 16-byte stores. Kernel for every other shape: one block per sample, tiles of
// 32 x 32 pairs.
#include "dot_interaction/dot_interaction_dispatch.cuh"

namespace dlrm::gpu {
namespace {

// Shared memory of one warp, in 16-byte pieces.
struct ForwardLayout {
  int chunks;        // of one feature row
  int row_stride;    // from row to row: odd, so that eight rows lie in different banks
  int tile;          // of one sample
  int pairs;         // of the pair part of an output row
  int warp;          // of a warp: two samples and one pair part

  __host__ __device__ ForwardLayout(int features, int dim, int element_bytes)
      : chunks(dim * element_bytes / 16),
        row_stride(round_up(chunks, 2) + 1),
        tile(features * row_stride),
        pairs((static_cast<int>(output_width(features, dim)) - dim) * element_bytes / 16),
        warp(2 * tile + pairs) {}
};

// kDim is D, or 0 where it is known at run time; kTiles = tiles of 16 rows.
template <typename T, int kDim, int kTiles, bool kSplit>
__global__ void __launch_bounds__(64, kSplit ? 3 : 7)
    forward_kernel(FeatureRows<const T> rows, T* __restrict__ output, int64_t batch, int features,
                   int run_time_dim) {
  const int dim = kDim > 0 ? kDim : run_time_dim;
  const ForwardLayout layout(features, dim, sizeof(T));
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int warps = blockDim.x / 32;
  uint4* memory = reinterpret_cast<uint4*>(shared_memory()) + warp * layout.warp;
  T* pairs = reinterpret_cast<T*>(memory + 2 * layout.tile);
  const uint4 zeros = make_uint4(0, 0, 0, 0);
  // Nothing writes these again: the padding of the output, and that of the last 32 bytes of a row.
  for (int c = lane; c < layout.pairs; c += 32) {
    reinterpret_cast<uint4*>(pairs)[c] = zeros;
  }
  if (layout.chunks % 2 != 0) {
    for (int row = lane; row < 2 * features; row += 32) {
      memory[row * layout.row_stride + layout.chunks] = zeros;
    }
  }
  __syncwarp();

  const int width_chunks = layout.chunks + layout.pairs;
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps;
  int64_t sample = static_cast<int64_t>(blockIdx.x) * warps + warp;
  int stage = 0;
  if (sample < batch) {
    copy_rows_async(memory, rows, sample, features, layout.chunks, layout.row_stride, lane);
  }
  copy_async_commit();
  for (; sample < batch; sample += step) {
    if (sample + step < batch) {
      copy_rows_async(memory + (stage ^ 1) * layout.tile, rows, sample + step, features,
                      layout.chunks, layout.row_stride, lane);
    }
    copy_async_commit();
    copy_async_wait<1>();
    __syncwarp();

    const uint4* tile = memory + stage * layout.tile;
    Accumulator<T, kSplit> acc[kTiles][2 * kTiles];
    const uint4* fragment_rows[kTiles];
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      // Rows past the last feature repeat it; their products are not stored.
      const int row = m * 16 + lane % 16;
      fragment_rows[m] = tile + (row < features ? row : features - 1) * layout.row_stride + lane / 16;
    }
#pragma unroll(kDim > 0 ? 8 : 2)
    for (int c = 0; c < layout.chunks; c += 2) {
      // A tile's rows are both the left operand and, as two halves, the transposed right one.
      Fragment<T, kSplit> fragment[kTiles];
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        uint32_t bits[4];
        load_matrices(bits, fragment_rows[m] + c);
        fragment[m].assign(bits);
      }
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int n = 0; n <= m; ++n) {
          multiply_add<0, 2>(acc[m][2 * n], fragment[m], fragment[n]);
          multiply_add<1, 3>(acc[m][2 * n + 1], fragment[m], fragment[n]);
        }
      }
    }

#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < 2 * (m + 1); ++n) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const int i = m * 16 + lane / 4 + 8 * (r / 2);
          const int j = n * 8 + lane % 4 * 2 + r % 2;
          if (j < i && i < features) {
            pairs[static_cast<int>(pair_index(i, j))] = from_float<T>(acc[m][n].sum(r));
          }
        }
      }
    }
    __syncwarp();

    uint4* out = reinterpret_cast<uint4*>(output + sample * output_width(features, dim));
#pragma unroll 4
    for (int c = lane; c < width_chunks; c += 32) {
      out[c] = c < layout.chunks ? tile[c] : memory[2 * layout.tile + c - layout.chunks];
    }
    // The next round overwrites this tile and the pairs.
    __syncwarp();
    stage ^= 1;
  }
}

constexpr int kGenericThreads = 256;
constexpr int kTile = 32;

// Any F and D: 256 threads, one sample at a time, each thread four pairs of a 32 x 32 tile.
template <typename T>
__global__ void __launch_bounds__(kGenericThreads, 3)
    forward_generic_kernel(FeatureRows<const T> rows, T* __restrict__ output, int64_t batch,
                           int64_t features, int64_t dim) {
  using Tile = float[kTile][kTile + 1];
  Tile& left = *reinterpret_cast<Tile*>(shared_memory());
  Tile& right = *reinterpret_cast<Tile*>(shared_memory() + sizeof(Tile));
  const int x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  constexpr int kRows = kGenericThreads / kTile;
  const int64_t width = output_width(features, dim);
  for (int64_t sample = blockIdx.x; sample < batch; sample += gridDim.x) {
    const T* bottom = rows.bottom + sample * rows.bottom_stride;
    const T* vectors = rows.vectors + sample * rows.vectors_stride;
    T* out = output + sample * width;
    for (int64_t d = threadIdx.x; d < dim; d += kGenericThreads) out[d] = bottom[d];
    for (int64_t p = dim + pair_count(features) + threadIdx.x; p < width; p += kGenericThreads) {
      out[p] = from_float<T>(0.0f);
    }
    for (int64_t i0 = 0; i0 < features; i0 += kTile) {
      for (int64_t j0 = 0; j0 <= i0; j0 += kTile) {
        float acc[kTile / kRows] = {};
        for (int64_t d0 = 0; d0 < dim; d0 += kTile) {
          for (int r = y; r < kTile; r += kRows) {
            const int64_t d = d0 + x, i = i0 + r, j = j0 + r;
            left[r][x] = i < features && d < dim
                             ? to_float(i == 0 ? bottom[d] : vectors[(i - 1) * dim + d])
                             : 0.0f;
            right[r][x] = j < features && d < dim
                              ? to_float(j == 0 ? bottom[d] : vectors[(j - 1) * dim + d])
                              : 0.0f;
          }
          __syncthreads();
          for (int d = 0; d < kTile; ++d) {
#pragma unroll
            for (int q = 0; q < kTile / kRows; ++q) {
              acc[q] = fmaf(left[y + q * kRows][d], right[x][d], acc[q]);
            }
          }
          __syncthreads();
        }
#pragma unroll
        for (int q = 0; q < kTile / kRows; ++q) {
          const int64_t i = i0 + y + q * kRows, j = j0 + x;
          if (j < i && i < features) out[dim + pair_index(i, j)] = from_float<T>(acc[q]);
        }
      }
    }
  }
}

template <typename T, int kDim, int kTiles, bool kSplit>
cudaError_t launch_fast(const DlrmInteractionShape& shape, FeatureRows<const T> rows, T* output,
                        cudaStream_t stream) {
  const int features = static_cast<int>(shape.features), dim = static_cast<int>(shape.dim);
  const size_t warp_bytes = ForwardLayout(features, dim, sizeof(T)).warp * size_t{16};
  size_t limit = 0;
  const cudaError_t status = shared_memory_limit(&limit);
  if (status != cudaSuccess) return status;
  const int warps = 2 * warp_bytes <= limit ? 2 : 1;
  return launch(forward_kernel<T, kDim, kTiles, kSplit>, (shape.batch + warps - 1) / warps,
                32 * warps, warps * warp_bytes, stream, rows, output, shape.batch, features, dim);
}

template <typename T, bool kSplit>
cudaError_t launch_tiles(const DlrmInteractionShape& shape, FeatureRows<const T> rows, T* output,
                         cudaStream_t stream) {
  if (shape.features <= 16) return launch_fast<T, 0, 1, kSplit>(shape, rows, output, stream);
  if (shape.dim == 128) return launch_fast<T, 128, 2, kSplit>(shape, rows, output, stream);
  return launch_fast<T, 0, 2, kSplit>(shape, rows, output, stream);
}

template <typename T>
cudaError_t forward(const DlrmInteractionShape& shape, const FeatureRows<const T>& rows, T* output,
                    cudaStream_t stream) {
  if (takes_fast_kernel<T>(shape) && aligned(rows) && aligned(output)) {
    if constexpr (sizeof(T) == 4) {
      if (shape.mode == DLRM_INTERACTION_ACCURATE) {
        return launch_tiles<T, true>(shape, rows, output, stream);
      }
    }
    return launch_tiles<T, false>(shape, rows, output, stream);
  }
  return launch(forward_generic_kernel<T>, shape.batch, kGenericThreads,
                2 * sizeof(float) * kTile * (kTile + 1), stream, rows, output, shape.batch,
                shape.features, shape.dim);
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" {

int64_t dlrm_dot_interaction_width(int64_t features, int64_t dim) {
  return dlrm::gpu::output_width(features, dim);
}

int dlrm_dot_interaction_is_fast(const DlrmInteractionShape* shape) {
  return shape->dtype == DLRM_FLOAT32 ? dlrm::gpu::takes_fast_kernel<float>(*shape)
                                      : dlrm::gpu::takes_fast_kernel<__half>(*shape);
}

cudaError_t dlrm_dot_interaction_forward(const DlrmInteractionShape* shape, const void* bottom,
                                         int64_t bottom_stride, const void* vectors,
                                         int64_t vectors_stride, void* output,
                                         cudaStream_t stream) {
  if (!dlrm::gpu::is_valid(*shape)) return cudaErrorInvalidValue;
  return dlrm::gpu::with_element_type(shape->dtype, [&](auto element) {
    using T = decltype(element);
    const dlrm::gpu::FeatureRows<const T> rows{static_cast<const T*>(bottom), bottom_stride,
                                          static_cast<const T*>(vectors), vectors_stride};
    return dlrm::gpu::forward<T>(*shape, rows, static_cast<T*>(output), stream);
  });
}

}  // extern "C"
