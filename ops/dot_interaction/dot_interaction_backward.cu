// Dot interaction, backward: with the symmetric G[i][j] = dL/d<x_i, x_j>, zero on the diagonal,
//   dL/dX = G X,  plus the first D columns of dL/doutput for row 0.
//
// Tensor-core kernel (F <= 32, D <= 256, 16-byte aligned rows): one warp per sample, the next
// sample and its upstream gradient copied meanwhile. G lives in registers only. A column block of
// the result takes the place of the same columns of X in shared memory, from where whole rows leave
// in 16-byte stores.
#include "dot_interaction/dot_interaction_tiles.cuh"

namespace dlrm::gpu {
namespace {

// Shared memory of one warp, in 16-byte pieces.
struct BackwardLayout {
  int chunks;      // of one feature row
  int row_stride;  // from row to row
  int tile;        // of one sample
  int gradient;    // of one row of the upstream gradient
  int stage;       // of one sample, its gradient, and one piece of zeros
  int warp;        // of a warp: two stages

  __host__ __device__ BackwardLayout(int features, int dim, int element_bytes)
      : chunks(dim * element_bytes / 16),
        row_stride(stride(RoundUp(dim, 16) * element_bytes / 16, element_bytes)),
        tile(features * row_stride),
        gradient(static_cast<int>(OutputWidth(features, dim)) * element_bytes / 16),
        stage(tile + gradient + 1),
        warp(2 * stage) {}

  // 16-bit rows are read by eight as matrices: an odd stride puts them in different banks.
  // float32 is read as 4 rows x 8 columns of single words: 2 modulo 8 does.
  static __host__ __device__ constexpr int stride(int chunks, int element_bytes) {
    if (element_bytes == 2) return RoundUp(chunks, 2) + 1;
    return chunks + (10 - chunks % 8) % 8;
  }
};

// How a lane's elements of G are spread over matrix instructions: tiles of 16 rows of the result,
// steps over the rows of X that one instruction takes (16 of 16-bit elements, 8 of float32), four
// registers of one or two elements.
template <typename T, int kTiles>
struct PairElements {
  static constexpr int kRowsPerStep = 32 / static_cast<int>(sizeof(T));
  static constexpr int kSteps = kTiles * 16 / kRowsPerStep;
  static constexpr int kPerRegister = 4 / static_cast<int>(sizeof(T));
  static constexpr int kCount = kTiles * kSteps * 4 * kPerRegister;

  // Where in the upstream gradient each element is; two 16-bit offsets a word.
  uint32_t offsets[kCount / 2];

  // `zero` is the offset of an element that is always zero.
  __device__ __forceinline__ PairElements(int features, int dim, int zero, int lane) {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      const int h = e % kPerRegister, r = e / kPerRegister % 4;
      const int k = e / (4 * kPerRegister) % kSteps, m = e / (4 * kPerRegister * kSteps);
      const int i = m * 16 + lane / 4 + 8 * (r % 2);
      const int j = k * kRowsPerStep + (lane % 4 + 4 * (r / 2)) * kPerRegister + h;
      const int offset = i == j || i >= features || j >= features
                             ? zero
                             : dim + static_cast<int>(i > j ? PairIndex(i, j) : PairIndex(j, i));
      offsets[e / 2] = e % 2 == 0 ? offset : offsets[e / 2] | static_cast<uint32_t>(offset) << 16;
    }
  }

  // Fills the fragments of G from a sample's upstream gradient.
  __device__ __forceinline__ void load(Fragment<T> (&g)[kTiles][kSteps], const T* upstream) const {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        uint32_t bits[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const int e = ((m * kSteps + k) * 4 + r) * kPerRegister;
          if constexpr (sizeof(T) == 2) {
            const uint16_t* source = reinterpret_cast<const uint16_t*>(upstream);
            bits[r] = source[offsets[e / 2] & 0xffffu] |
                      static_cast<uint32_t>(source[offsets[e / 2] >> 16]) << 16;
          } else {
            const uint32_t* source = reinterpret_cast<const uint32_t*>(upstream);
            bits[r] = source[offsets[e / 2] >> 16 * (e % 2) & 0xffffu];
          }
        }
        g[m][k].assign(bits);
      }
    }
  }
};

// Right operands for 16 columns: out[0..1] for the first eight, out[2..3] for the others.
template <typename T>
__device__ __forceinline__ void load_columns(uint32_t (&bits)[4], const uint4* tile, int row_stride,
                                             int first_row, int column, int features, int lane) {
  if constexpr (sizeof(T) == 2) {
    const int row = first_row + lane % 16;
    const uint4* address =
        tile + (row < features ? row : features - 1) * row_stride + column / 8 + lane / 16;
    load_matrices_transposed(bits, address);
  } else {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(tile);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = first_row + lane % 4 + 4 * r;
      const uint32_t* source =
          words + (row < features ? row : features - 1) * row_stride * 4 + column + lane / 4;
      bits[r] = source[0];
      bits[2 + r] = source[8];
    }
  }
}

// acc = 16 columns of G X, from `column` on.
template <typename T, int kTiles, int kSteps>
__device__ __forceinline__ void multiply_columns(Accumulator<T> (&acc)[kTiles][2],
                                                 const Fragment<T> (&g)[kTiles][kSteps],
                                                 const uint4* tile, int row_stride, int column,
                                                 int features, int lane) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    uint32_t bits[4];
    load_columns<T>(bits, tile, row_stride, k * PairElements<T, kTiles>::kRowsPerStep, column,
                    features, lane);
    Fragment<T> x;
    x.assign(bits);
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      multiply_add<0, 1>(acc[m][0], g[m][k], x);
      multiply_add<2, 3>(acc[m][1], g[m][k], x);
    }
  }
}

// Puts 16 columns of the result, from `column` on, in the place of those of X; row 0 gets the
// upstream gradient of its own copy added.
template <typename T, int kTiles>
__device__ __forceinline__ void replace_columns(uint4* tile, int row_stride,
                                                Accumulator<T> (&acc)[kTiles][2], const T* upstream,
                                                int column, int features, int dim, int lane) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const int d = column + n * 8 + lane % 4 * 2;
    if (d >= dim) continue;
    if (lane < 4) {
      acc[0][n].large[0] += to_float(upstream[d]);
      acc[0][n].large[1] += to_float(upstream[d + 1]);
    }
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = m * 16 + lane / 4 + 8 * h;
        if (row < features) {
          store_pair(reinterpret_cast<T*>(tile + row * row_stride) + d, acc[m][n].sum(2 * h),
                     acc[m][n].sum(2 * h + 1));
        }
      }
    }
  }
}

// Copies the result's rows from shared to device memory.
template <typename T>
__device__ __forceinline__ void store_rows(const FeatureRows<T>& grads, int64_t sample,
                                           const uint4* tile, const BackwardLayout& layout,
                                           int features, int lane) {
  uint4* bottom = reinterpret_cast<uint4*>(grads.bottom + sample * grads.bottom_stride);
  uint4* vectors = reinterpret_cast<uint4*>(grads.vectors + sample * grads.vectors_stride);
  const int total = features * layout.chunks;
#pragma unroll 4
  for (int c = lane; c < total; c += 32) {
    const int row = c / layout.chunks;
    uint4* target = c < layout.chunks ? bottom + c : vectors + (c - layout.chunks);
    *target = tile[row * layout.row_stride + (c - row * layout.chunks)];
  }
}

// kDim is D, or 0 where it is known at run time; kTiles = tiles of 16 rows.
template <typename T, int kDim, int kTiles>
__global__ void __launch_bounds__(64, sizeof(T) == 4 ? 3 : 7)
    backward_kernel(FeatureRows<const T> rows, const T* __restrict__ grad_output,
                    FeatureRows<T> grads, int64_t batch, int features, int run_time_dim) {
  using Elements = PairElements<T, kTiles>;
  const int dim = kDim > 0 ? kDim : run_time_dim;
  const BackwardLayout layout(features, dim, sizeof(T));
  const int64_t width = OutputWidth(features, dim);
  const int lane = threadIdx.x % 32;
  uint4* memory = reinterpret_cast<uint4*>(shared_memory()) + threadIdx.x / 32 * layout.warp;
  // The piece after each gradient is zero.
  if (lane < 2) {
    memory[lane * layout.stage + layout.tile + layout.gradient] = make_uint4(0, 0, 0, 0);
  }
  __syncwarp();
  const int zero = layout.gradient * 16 / static_cast<int>(sizeof(T));
  const Elements elements(features, dim, zero, lane);

  const auto copy = [&](int stage, int64_t sample) {
    uint4* tile = memory + stage * layout.stage;
    copy_rows_async(tile, rows, sample, features, layout.chunks, layout.row_stride, lane);
    const uint4* upstream = reinterpret_cast<const uint4*>(grad_output + sample * width);
#pragma unroll 4
    for (int c = lane; c < layout.gradient; c += 32) {
      copy_async_16(tile + layout.tile + c, upstream + c);
    }
  };
  for_each_sample(batch, copy, [&](int stage, int64_t sample) {
    uint4* tile = memory + stage * layout.stage;
    const T* upstream = reinterpret_cast<const T*>(tile + layout.tile);
    Fragment<T> g[kTiles][Elements::kSteps];
    elements.load(g, upstream);
#pragma unroll(kDim > 0 ? 2 : 1)
    for (int column = 0; column < dim; column += 16) {
      Accumulator<T> acc[kTiles][2];
      multiply_columns(acc, g, tile, layout.row_stride, column, features, lane);
      // Every lane has read the columns that the result now replaces.
      __syncwarp();
      replace_columns(tile, layout.row_stride, acc, upstream, column, features, dim, lane);
    }
    __syncwarp();
    store_rows(grads, sample, tile, layout, features, lane);
  });
}

// Any F and D.
template <typename T>
__global__ void __launch_bounds__(kGenericThreads, 3)
    backward_generic_kernel(FeatureRows<const T> rows, const T* __restrict__ grad_output,
                            FeatureRows<T> grads, int64_t batch, int64_t features, int64_t dim) {
  Tile &pairs = tile_in_shared_memory(0), &right = tile_in_shared_memory(1);
  const int x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  for (int64_t sample = blockIdx.x; sample < batch; sample += gridDim.x) {
    const T* bottom = rows.bottom + sample * rows.bottom_stride;
    const T* vectors = rows.vectors + sample * rows.vectors_stride;
    const T* upstream = grad_output + sample * OutputWidth(features, dim);
    for (int64_t i0 = 0; i0 < features; i0 += kTile) {
      for (int64_t d0 = 0; d0 < dim; d0 += kTile) {
        float acc[kTile / kTileRows] = {};
        for (int64_t j0 = 0; j0 < features; j0 += kTile) {
          for (int r = y; r < kTile; r += kTileRows) {
            const int64_t i = i0 + r, j = j0 + x;
            float g = 0.0f;
            if (i < features && j < features && i != j) {
              g = to_float(upstream[dim + (i > j ? PairIndex(i, j) : PairIndex(j, i))]);
            }
            pairs[r][x] = g;
            right[r][x] = element_or_zero(bottom, vectors, j0 + r, d0 + x, features, dim);
          }
          __syncthreads();
          for (int j = 0; j < kTile; ++j) {
#pragma unroll
            for (int q = 0; q < kTile / kTileRows; ++q) {
              acc[q] = fmaf(pairs[y + q * kTileRows][j], right[j][x], acc[q]);
            }
          }
          __syncthreads();
        }
#pragma unroll
        for (int q = 0; q < kTile / kTileRows; ++q) {
          const int64_t i = i0 + y + q * kTileRows, d = d0 + x;
          if (i >= features || d >= dim) continue;
          if (i == 0) {
            grads.bottom[sample * grads.bottom_stride + d] =
                from_float<T>(acc[q] + to_float(upstream[d]));
          } else {
            grads.vectors[sample * grads.vectors_stride + (i - 1) * dim + d] =
                from_float<T>(acc[q]);
          }
        }
      }
    }
  }
}

template <typename T>
cudaError_t backward(const DlrmInteractionShape& shape, const FeatureRows<const T>& rows,
                     const T* grad_output, const FeatureRows<T>& grads, cudaStream_t stream) {
  if (!takes_fast_kernel<T>(shape) || !IsAligned(rows, 16) || !IsAligned(grad_output, 16) ||
      !IsAligned(grads, 16)) {
    return launch_generic(backward_generic_kernel<T>, shape.batch, stream, rows, grad_output, grads,
                          shape.batch, shape.features, shape.dim);
  }
  const int features = static_cast<int>(shape.features), dim = static_cast<int>(shape.dim);
  return with_instance(shape, [&](auto instance) {
    using I = decltype(instance);
    return launch_warps(backward_kernel<T, I::kDim, I::kTiles>, shape.batch,
                        BackwardLayout(features, dim, sizeof(T)).warp, stream, rows, grad_output,
                        grads, shape.batch, features, dim);
  });
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" cudaError_t dlrm_dot_interaction_backward(const DlrmInteractionShape* shape,
                                                     const dlrm::FeatureRows<const void>* rows,
                                                     const void* grad_output,
                                                     const dlrm::FeatureRows<void>* grads,
                                                     cudaStream_t stream) {
  if (!dlrm::gpu::is_valid(*shape)) return cudaErrorInvalidValue;
  return dlrm::gpu::with_element_type(shape->dtype, [&](auto element) {
    using T = decltype(element);
    return dlrm::gpu::backward<T>(*shape, dlrm::RowsAs<const T>(*rows),
                                  static_cast<const T*>(grad_output), dlrm::RowsAs<T>(*grads),
                                  stream);
  });
}
