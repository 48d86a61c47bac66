// Dot interaction, backward: with the symmetric G[i][j] = dL/d<x_i, x_j>, zero on the diagonal,
//   dL/dX = G X,  plus the first D columns of dL/doutput for row 0.
//
// Tensor-core kernel (F <= 32, D <= 256, 16-byte aligned rows): one warp per sample, the next
// sample and its upstream gradient copied meanwhile. G lives in registers only. A column block of
// the result takes the place of the same columns of X in shared memory, from where whole rows leave
// in 16-byte stores.
#include "dot_interaction/dot_interaction_dispatch.cuh"

namespace dlrm::gpu {
namespace {

// Shared memory of one warp, in 16-byte pieces.
struct BackwardLayout {
  int chunks;          // of one feature row
  int row_stride;      // from row to row
  int tile;            // of one sample
  int gradient;        // of one row of the upstream gradient
  int stage;           // of one sample, its gradient, and one piece of zeros
  int warp;            // of a warp: two stages

  __host__ __device__ BackwardLayout(int features, int dim, int element_bytes)
      : chunks(dim * element_bytes / 16),
        row_stride(stride(round_up(dim, 16) * element_bytes / 16, element_bytes)),
        tile(features * row_stride),
        gradient(static_cast<int>(output_width(features, dim)) * element_bytes / 16),
        stage(tile + gradient + 1),
        warp(2 * stage) {}

  // 16-bit rows are read by eight as matrices: an odd stride puts them in different banks.
  // float32 is read as 4 rows x 8 columns of single words: 2 modulo 8 does.
  static __host__ __device__ constexpr int stride(int chunks, int element_bytes) {
    if (element_bytes == 2) return round_up(chunks, 2) + 1;
    return chunks + (10 - chunks % 8) % 8;
  }
};

// Rows of X that one matrix instruction takes: 16 of 16-bit elements, 8 of float32.
template <typename T>
__host__ __device__ constexpr int rows_per_step() {
  return 32 / static_cast<int>(sizeof(T));
}

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

// kDim is D, or 0 where it is known at run time; kTiles = tiles of 16 rows.
template <typename T, int kDim, int kTiles, bool kSplit>
__global__ void __launch_bounds__(64, kSplit ? 3 : 7)
    backward_kernel(FeatureRows<const T> rows, const T* __restrict__ grad_output,
                    FeatureRows<T> grads, int64_t batch, int features, int run_time_dim) {
  constexpr int kSteps = kTiles * 16 / rows_per_step<T>();
  constexpr int kPerRegister = 4 / static_cast<int>(sizeof(T));
  const int dim = kDim > 0 ? kDim : run_time_dim;
  const BackwardLayout layout(features, dim, sizeof(T));
  const int64_t width = output_width(features, dim);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int warps = blockDim.x / 32;
  uint4* memory = reinterpret_cast<uint4*>(shared_memory()) + warp * layout.warp;
  const int zero = layout.gradient * 16 / static_cast<int>(sizeof(T));  // element after a gradient
  if (lane < 2) {
    memory[lane * layout.stage + layout.tile + layout.gradient] = make_uint4(0, 0, 0, 0);
  }
  __syncwarp();

  // Where in the upstream gradient this lane's elements of G stand; two 16-bit offsets a word.
  uint32_t offsets[kTiles * kSteps * 4 * kPerRegister / 2];
#pragma unroll
  for (int e = 0; e < kTiles * kSteps * 4 * kPerRegister; ++e) {
    const int h = e % kPerRegister, r = e / kPerRegister % 4;
    const int k = e / (4 * kPerRegister) % kSteps, m = e / (4 * kPerRegister * kSteps);
    const int i = m * 16 + lane / 4 + 8 * (r % 2);
    const int j = k * rows_per_step<T>() + (lane % 4 + 4 * (r / 2)) * kPerRegister + h;
    const int offset = i == j || i >= features || j >= features
                           ? zero
                           : dim + static_cast<int>(i > j ? pair_index(i, j) : pair_index(j, i));
    offsets[e / 2] = e % 2 == 0 ? offset : offsets[e / 2] | static_cast<uint32_t>(offset) << 16;
  }

  const auto copy_stage = [&](int stage, int64_t sample) {
    uint4* tile = memory + stage * layout.stage;
    copy_rows_async(tile, rows, sample, features, layout.chunks, layout.row_stride, lane);
    const uint4* upstream = reinterpret_cast<const uint4*>(grad_output + sample * width);
#pragma unroll 4
    for (int c = lane; c < layout.gradient; c += 32) {
      copy_async_16(tile + layout.tile + c, upstream + c);
    }
  };
  const int64_t step = static_cast<int64_t>(gridDim.x) * warps;
  int64_t sample = static_cast<int64_t>(blockIdx.x) * warps + warp;
  int stage = 0;
  if (sample < batch) copy_stage(0, sample);
  copy_async_commit();
  for (; sample < batch; sample += step) {
    if (sample + step < batch) copy_stage(stage ^ 1, sample + step);
    copy_async_commit();
    copy_async_wait<1>();
    __syncwarp();

    uint4* tile = memory + stage * layout.stage;
    const T* upstream = reinterpret_cast<const T*>(tile + layout.tile);
    Fragment<T, kSplit> g[kTiles][kSteps];
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

#pragma unroll(kDim > 0 ? 2 : 1)
    for (int column = 0; column < dim; column += 16) {
      Accumulator<T, kSplit> acc[kTiles][2];
#pragma unroll
      for (int k = 0; k < kSteps; ++k) {
        uint32_t bits[4];
        load_columns<T>(bits, tile, layout.row_stride, k * rows_per_step<T>(), column, features,
                        lane);
        Fragment<T, kSplit> x;
        x.assign(bits);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          multiply_add<0, 1>(acc[m][0], g[m][k], x);
          multiply_add<2, 3>(acc[m][1], g[m][k], x);
        }
      }
      // Every lane has read the columns that the result now replaces.
      __syncwarp();
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int d = column + n * 8 + lane % 4 * 2;
        if (d >= dim) continue;
        if (lane < 4) {  // row 0 also went to the output as it was
          acc[0][n].large[0] += to_float(upstream[d]);
          acc[0][n].large[1] += to_float(upstream[d + 1]);
        }
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int row = m * 16 + lane / 4 + 8 * h;
            if (row < features) {
              store_pair(reinterpret_cast<T*>(tile + row * layout.row_stride) + d,
                         acc[m][n].sum(2 * h), acc[m][n].sum(2 * h + 1));
            }
          }
        }
      }
    }
    __syncwarp();

    uint4* bottom = reinterpret_cast<uint4*>(grads.bottom + sample * grads.bottom_stride);
    uint4* vectors = reinterpret_cast<uint4*>(grads.vectors + sample * grads.vectors_stride);
    const int total = features * layout.chunks;
#pragma unroll 4
    for (int c = lane; c < total; c += 32) {
      const int row = c / layout.chunks;
      uint4* target = c < layout.chunks ? bottom + c : vectors + (c - layout.chunks);
      *target = tile[row * layout.row_stride + (c - row * layout.chunks)];
    }
    // The next round copies new rows over these.
    __syncwarp();
    stage ^= 1;
  }
}

constexpr int kGenericThreads = 256;
constexpr int kTile = 32;

// Any F and D: 256 threads, one sample at a time, each thread four elements of a 32 x 32 tile.
template <typename T>
__global__ void __launch_bounds__(kGenericThreads, 3)
    backward_generic_kernel(FeatureRows<const T> rows, const T* __restrict__ grad_output,
                            FeatureRows<T> grads, int64_t batch, int64_t features, int64_t dim) {
  using Tile = float[kTile][kTile + 1];
  Tile& pairs = *reinterpret_cast<Tile*>(shared_memory());
  Tile& right = *reinterpret_cast<Tile*>(shared_memory() + sizeof(Tile));
  const int x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  constexpr int kRows = kGenericThreads / kTile;
  for (int64_t sample = blockIdx.x; sample < batch; sample += gridDim.x) {
    const T* bottom = rows.bottom + sample * rows.bottom_stride;
    const T* vectors = rows.vectors + sample * rows.vectors_stride;
    const T* upstream = grad_output + sample * output_width(features, dim);
    for (int64_t i0 = 0; i0 < features; i0 += kTile) {
      for (int64_t d0 = 0; d0 < dim; d0 += kTile) {
        float acc[kTile / kRows] = {};
        for (int64_t j0 = 0; j0 < features; j0 += kTile) {
          for (int r = y; r < kTile; r += kRows) {
            const int64_t i = i0 + r, column = j0 + x, j = j0 + r, d = d0 + x;
            float g = 0.0f;
            if (i < features && column < features && i != column) {
              g = to_float(upstream[dim + (i > column ? pair_index(i, column)
                                                      : pair_index(column, i))]);
            }
            pairs[r][x] = g;
            right[r][x] = j < features && d < dim
                              ? to_float(j == 0 ? bottom[d] : vectors[(j - 1) * dim + d])
                              : 0.0f;
          }
          __syncthreads();
          for (int j = 0; j < kTile; ++j) {
#pragma unroll
            for (int q = 0; q < kTile / kRows; ++q) {
              acc[q] = fmaf(pairs[y + q * kRows][j], right[j][x], acc[q]);
            }
          }
          __syncthreads();
        }
#pragma unroll
        for (int q = 0; q < kTile / kRows; ++q) {
          const int64_t i = i0 + y + q * kRows, d = d0 + x;
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

template <typename T, int kDim, int kTiles, bool kSplit>
cudaError_t launch_fast(const DlrmInteractionShape& shape, FeatureRows<const T> rows,
                        const T* grad_output, FeatureRows<T> grads, cudaStream_t stream) {
  const int features = static_cast<int>(shape.features), dim = static_cast<int>(shape.dim);
  const size_t warp_bytes = BackwardLayout(features, dim, sizeof(T)).warp * size_t{16};
  size_t limit = 0;
  const cudaError_t status = shared_memory_limit(&limit);
  if (status != cudaSuccess) return status;
  const int warps = 2 * warp_bytes <= limit ? 2 : 1;
  return launch(backward_kernel<T, kDim, kTiles, kSplit>, (shape.batch + warps - 1) / warps,
                32 * warps, warps * warp_bytes, stream, rows, grad_output, grads, shape.batch,
                features, dim);
}

template <typename T, bool kSplit>
cudaError_t launch_tiles(const DlrmInteractionShape& shape, FeatureRows<const T> rows,
                         const T* grad_output, FeatureRows<T> grads, cudaStream_t stream) {
  if (shape.features <= 16) {
    return launch_fast<T, 0, 1, kSplit>(shape, rows, grad_output, grads, stream);
  }
  if (shape.dim == 128) {
    return launch_fast<T, 128, 2, kSplit>(shape, rows, grad_output, grads, stream);
  }
  return launch_fast<T, 0, 2, kSplit>(shape, rows, grad_output, grads, stream);
}

template <typename T>
cudaError_t backward(const DlrmInteractionShape& shape, const FeatureRows<const T>& rows,
                     const T* grad_output, const FeatureRows<T>& grads, cudaStream_t stream) {
  if (takes_fast_kernel<T>(shape) && aligned(rows) && aligned(grad_output) && aligned(grads)) {
    if constexpr (sizeof(T) == 4) {
      if (shape.mode == DLRM_INTERACTION_ACCURATE) {
        return launch_tiles<T, true>(shape, rows, grad_output, grads, stream);
      }
    }
    return launch_tiles<T, false>(shape, rows, grad_output, grads, stream);
  }
  return launch(backward_generic_kernel<T>, shape.batch, kGenericThreads,
                2 * sizeof(float) * kTile * (kTile + 1), stream, rows, grad_output, grads,
                shape.batch, shape.features, shape.dim);
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" cudaError_t dlrm_dot_interaction_backward(
    const DlrmInteractionShape* shape, const void* bottom, int64_t bottom_stride,
    const void* vectors, int64_t vectors_stride, const void* grad_output, void* grad_bottom,
    int64_t grad_bottom_stride, void* grad_vectors, int64_t grad_vectors_stride,
    cudaStream_t stream) {
  if (!dlrm::gpu::is_valid(*shape)) return cudaErrorInvalidValue;
  return dlrm::gpu::with_element_type(shape->dtype, [&](auto element) {
    using T = decltype(element);
    const dlrm::gpu::FeatureRows<const T> rows{static_cast<const T*>(bottom), bottom_stride,
                                          static_cast<const T*>(vectors), vectors_stride};
    const dlrm::gpu::FeatureRows<T> grads{static_cast<T*>(grad_bottom), grad_bottom_stride,
                                     static_cast<T*>(grad_vectors), grad_vectors_stride};
    return dlrm::gpu::backward<T>(*shape, rows, static_cast<const T*>(grad_output), grads, stream);
  });
}
