// Dot interaction, forward.
//
// Tensor-core kernel (F <= 32, D <= 256, 16-byte aligned rows): one warp per sample and no
// block-wide barrier. While a warp multiplies one sample, the next one is copied into the other
// half of its shared memory; every element is read from device memory once and every output row
// written once with 16-byte stores. Kernel for every other shape: one block per sample, tiles of
// 32 x 32 pairs.
#include "dot_interaction/dot_interaction_tiles.cuh"

namespace dlrm::gpu {
namespace {

// Shared memory of one warp, in 16-byte pieces.
struct ForwardLayout {
  int chunks;      // of one feature row
  int row_stride;  // from row to row: odd, so that eight rows lie in different banks
  int tile;        // of one sample
  int pairs;       // of the pair part of an output row
  int warp;        // of a warp: two samples and one pair part

  __host__ __device__ ForwardLayout(int features, int dim, int element_bytes)
      : chunks(dim * element_bytes / 16),
        row_stride(RoundUp(chunks, 2) + 1),
        tile(features * row_stride),
        pairs((static_cast<int>(OutputWidth(features, dim)) - dim) * element_bytes / 16),
        warp(2 * tile + pairs) {}
};

// Zeroes what nothing writes again: the padding of the output, and that of the last 32 bytes of
// the rows.
__device__ __forceinline__ void clear_padding(uint4* memory, const ForwardLayout& layout,
                                              int features, int lane) {
  const uint4 zeros = make_uint4(0, 0, 0, 0);
  for (int c = lane; c < layout.pairs; c += 32) memory[2 * layout.tile + c] = zeros;
  if (layout.chunks % 2 != 0) {
    for (int row = lane; row < 2 * features; row += 32) {
      memory[row * layout.row_stride + layout.chunks] = zeros;
    }
  }
}

// acc = X X^T of one sample, the tiles on and below the diagonal.
template <int kDim, typename T, int kTiles>
__device__ __forceinline__ void multiply_rows(Accumulator<T> (&acc)[kTiles][2 * kTiles],
                                              const uint4* tile, const ForwardLayout& layout,
                                              int features, int lane) {
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
    Fragment<T> fragment[kTiles];
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
}

// The products of rows i > j, in the order of an output row.
template <typename T, int kTiles>
__device__ __forceinline__ void store_pairs(T* pairs,
                                            const Accumulator<T> (&acc)[kTiles][2 * kTiles],
                                            int features, int lane) {
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int n = 0; n < 2 * (m + 1); ++n) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int i = m * 16 + lane / 4 + 8 * (r / 2);
        const int j = n * 8 + lane % 4 * 2 + r % 2;
        if (j < i && i < features) {
          pairs[static_cast<int>(PairIndex(i, j))] = from_float<T>(acc[m][n].sum(r));
        }
      }
    }
  }
}

// kDim is D, or 0 where it is known at run time; kTiles = tiles of 16 rows.
template <typename T, int kDim, int kTiles>
__global__ void __launch_bounds__(64, sizeof(T) == 4 ? 3 : 7)
    forward_kernel(FeatureRows<const T> rows, T* __restrict__ output, int64_t batch, int features,
                   int run_time_dim) {
  const int dim = kDim > 0 ? kDim : run_time_dim;
  const ForwardLayout layout(features, dim, sizeof(T));
  const int lane = threadIdx.x % 32;
  uint4* memory = reinterpret_cast<uint4*>(shared_memory()) + threadIdx.x / 32 * layout.warp;
  uint4* pairs = memory + 2 * layout.tile;
  clear_padding(memory, layout, features, lane);
  __syncwarp();

  const auto copy = [&](int stage, int64_t sample) {
    copy_rows_async(memory + stage * layout.tile, rows, sample, features, layout.chunks,
                    layout.row_stride, lane);
  };
  for_each_sample(batch, copy, [&](int stage, int64_t sample) {
    const uint4* tile = memory + stage * layout.tile;
    Accumulator<T> acc[kTiles][2 * kTiles];
    multiply_rows<kDim>(acc, tile, layout, features, lane);
    store_pairs(reinterpret_cast<T*>(pairs), acc, features, lane);
    __syncwarp();
    uint4* out = reinterpret_cast<uint4*>(output + sample * OutputWidth(features, dim));
    const int width_chunks = layout.chunks + layout.pairs;
#pragma unroll 4
    for (int c = lane; c < width_chunks; c += 32) {
      out[c] = c < layout.chunks ? tile[c] : pairs[c - layout.chunks];
    }
  });
}

// Any F and D.
template <typename T>
__global__ void __launch_bounds__(kGenericThreads, 3)
    forward_generic_kernel(FeatureRows<const T> rows, T* __restrict__ output, int64_t batch,
                           int64_t features, int64_t dim) {
  Tile &left = tile_in_shared_memory(0), &right = tile_in_shared_memory(1);
  const int x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  const int64_t width = OutputWidth(features, dim);
  for (int64_t sample = blockIdx.x; sample < batch; sample += gridDim.x) {
    const T* bottom = rows.bottom + sample * rows.bottom_stride;
    const T* vectors = rows.vectors + sample * rows.vectors_stride;
    T* out = output + sample * width;
    for (int64_t d = threadIdx.x; d < dim; d += kGenericThreads) out[d] = bottom[d];
    for (int64_t p = dim + PairCount(features) + threadIdx.x; p < width; p += kGenericThreads) {
      out[p] = from_float<T>(0.0f);
    }
    for (int64_t i0 = 0; i0 < features; i0 += kTile) {
      for (int64_t j0 = 0; j0 <= i0; j0 += kTile) {
        float acc[kTile / kTileRows] = {};
        for (int64_t d0 = 0; d0 < dim; d0 += kTile) {
          for (int r = y; r < kTile; r += kTileRows) {
            left[r][x] = element_or_zero(bottom, vectors, i0 + r, d0 + x, features, dim);
            right[r][x] = element_or_zero(bottom, vectors, j0 + r, d0 + x, features, dim);
          }
          __syncthreads();
          for (int d = 0; d < kTile; ++d) {
#pragma unroll
            for (int q = 0; q < kTile / kTileRows; ++q) {
              acc[q] = fmaf(left[y + q * kTileRows][d], right[x][d], acc[q]);
            }
          }
          __syncthreads();
        }
#pragma unroll
        for (int q = 0; q < kTile / kTileRows; ++q) {
          const int64_t i = i0 + y + q * kTileRows, j = j0 + x;
          if (j < i && i < features) out[dim + PairIndex(i, j)] = from_float<T>(acc[q]);
        }
      }
    }
  }
}

template <typename T>
cudaError_t forward(const DlrmInteractionShape& shape, const FeatureRows<const T>& rows, T* output,
                    cudaStream_t stream) {
  if (!takes_fast_kernel<T>(shape) || !IsAligned(rows, 16) || !IsAligned(output, 16)) {
    return launch_generic(forward_generic_kernel<T>, shape.batch, stream, rows, output, shape.batch,
                          shape.features, shape.dim);
  }
  const int features = static_cast<int>(shape.features), dim = static_cast<int>(shape.dim);
  return with_instance(shape, [&](auto instance) {
    using I = decltype(instance);
    return launch_warps(forward_kernel<T, I::kDim, I::kTiles>, shape.batch,
                        ForwardLayout(features, dim, sizeof(T)).warp, stream, rows, output,
                        shape.batch, features, dim);
  });
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" {

int64_t dlrm_dot_interaction_width(int64_t features, int64_t dim) {
  return dlrm::OutputWidth(features, dim);
}

cudaError_t dlrm_dot_interaction_forward(const DlrmInteractionShape* shape,
                                         const dlrm::FeatureRows<const void>* rows, void* output,
                                         cudaStream_t stream) {
  if (!dlrm::gpu::is_valid(*shape)) return cudaErrorInvalidValue;
  return dlrm::gpu::with_element_type(shape->dtype, [&](auto element) {
    using T = decltype(element);
    return dlrm::gpu::forward<T>(*shape, dlrm::RowsAs<const T>(*rows), static_cast<T*>(output),
                                 stream);
  });
}

}  // extern "C"
