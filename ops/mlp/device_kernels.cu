#include "mlp/device_kernels.h"

#include "cuda_elements.cuh"

namespace dlrm::gpu::mlp {
namespace {

constexpr int kThreads = 256;

// Elements of one 16-byte access.
template <typename T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

template <typename T>
struct alignas(16) Pack {
  T value[kPack<T>];
};

template <typename T>
__device__ __forceinline__ Pack<T> load_pack(const T* address) {
  return *reinterpret_cast<const Pack<T>*>(address);
}
template <typename T>
__device__ __forceinline__ void store_pack(T* address, const Pack<T>& pack) {
  *reinterpret_cast<Pack<T>*>(address) = pack;
}

__device__ __forceinline__ int64_t first_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t all_threads() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

int64_t blocks_for(int64_t threads) { return (threads + kThreads - 1) / kThreads; }

struct WeightCopies {
  WeightCopy copy[kMostCopies];
  int64_t first_pack[kMostCopies + 1];  // numbers of the packs before each copy, then of all
  int count;
};

template <typename T>
__device__ __forceinline__ void copy_weights(const WeightCopy& copy, int64_t pack) {
  const int64_t first = pack * kPack<T>;
  const float* source = copy.source + first;
  auto* target = static_cast<T*>(copy.target) + first;
  Pack<T> out;
  if (first + kPack<T> <= copy.count && reinterpret_cast<uintptr_t>(copy.source) % 16 == 0) {
#pragma unroll
    for (int v = 0; v < kPack<T>; v += 4) {
      const float4 part = load_read_only(reinterpret_cast<const float4*>(source + v));
      out.value[v] = from_float<T>(part.x);
      out.value[v + 1] = from_float<T>(part.y);
      out.value[v + 2] = from_float<T>(part.z);
      out.value[v + 3] = from_float<T>(part.w);
    }
  } else {
#pragma unroll
    for (int v = 0; v < kPack<T>; ++v) {
      out.value[v] = from_float<T>(first + v < copy.count ? source[v] : 0.0f);
    }
  }
  if (first + kPack<T> <= copy.padded) {
    store_pack(target, out);
  } else {
#pragma unroll
    for (int v = 0; v < kPack<T>; ++v) {
      if (first + v < copy.padded) target[v] = out.value[v];
    }
  }
}

// One 16-byte pack per thread: first of the weights, then of the rows.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    copy_kernel(const __grid_constant__ WeightCopies weights, RowsCopy rows, int64_t row_packs) {
  const int64_t weight_packs = weights.first_pack[weights.count];
  for (int64_t k = first_thread(); k < weight_packs + row_packs; k += all_threads()) {
    if (k < weight_packs) {
      int number = 0;
      while (k >= weights.first_pack[number + 1]) ++number;
      copy_weights<T>(weights.copy[number], k - weights.first_pack[number]);
    } else {
      const int64_t packs = rows.padded_columns / kPack<T>;
      const int64_t row = (k - weight_packs) / packs;
      const int64_t column = (k - weight_packs - row * packs) * kPack<T>;
      const T* source = static_cast<const T*>(rows.source) + row * rows.columns;
      Pack<T> out;
#pragma unroll
      for (int v = 0; v < kPack<T>; ++v) {
        out.value[v] = column + v < rows.columns ? source[column + v] : from_float<T>(0.0f);
      }
      store_pack(static_cast<T*>(rows.target) + row * rows.padded_columns + column, out);
    }
  }
}

// `body(first, pack, elements)` for each pack of x [count], the last one maybe with fewer elements;
// then the pack is stored in `out`.
template <typename T, typename Body>
__device__ __forceinline__ void for_packs(const T* x, T* out, int64_t count, Body body) {
  const int64_t packs = (count + kPack<T> - 1) / kPack<T>;
  for (int64_t k = first_thread(); k < packs; k += all_threads()) {
    const int64_t first = k * kPack<T>;
    if (first + kPack<T> <= count) {
      Pack<T> pack = load_pack(x + first);
      body(first, pack, kPack<T>);
      store_pack(out + first, pack);
    } else {
      Pack<T> pack;
      const int rest = static_cast<int>(count - first);
#pragma unroll
      for (int v = 0; v < kPack<T>; ++v) pack.value[v] = v < rest ? x[first + v] : T{};
      body(first, pack, rest);
#pragma unroll
      for (int v = 0; v < kPack<T>; ++v) {
        if (v < rest) out[first + v] = pack.value[v];
      }
    }
  }
}

template <typename T, bool kRelu>
__global__ void __launch_bounds__(kThreads)
    bias_kernel(T* x, const T* __restrict__ bias, int64_t count, int64_t columns) {
  for_packs(x, x, count, [&](int64_t first, Pack<T>& pack, int) {
    int64_t column = first % columns;
#pragma unroll
    for (int v = 0; v < kPack<T>; ++v) {
      const float sum = to_float(pack.value[v]) + to_float(bias[column]);
      pack.value[v] = from_float<T>(kRelu && sum <= 0.0f ? 0.0f : sum);
      if (++column == columns) column = 0;
    }
  });
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    mask_kernel(const T* gradient, const T* __restrict__ activation, T* result, int64_t count) {
  for_packs(gradient, result, count, [&](int64_t first, Pack<T>& pack, int elements) {
    if (elements == kPack<T>) {
      const Pack<T> y = load_pack(activation + first);
#pragma unroll
      for (int v = 0; v < kPack<T>; ++v) {
        if (!(to_float(y.value[v]) > 0.0f)) pack.value[v] = from_float<T>(0.0f);
      }
    } else {
      for (int v = 0; v < elements; ++v) {
        if (!(to_float(activation[first + v]) > 0.0f)) pack.value[v] = from_float<T>(0.0f);
      }
    }
  });
}

// A block of the sums has 32 lanes of columns, of kWide packs or single elements, and kLanes rows.
constexpr int kLanes = kThreads / 32;
constexpr int64_t kMostParts = 64, kLeastRows = 128;

int64_t rows_of_part(int64_t rows) {
  const int64_t even = (rows + kMostParts - 1) / kMostParts;
  return even < kLeastRows ? kLeastRows : even;
}

template <typename T, int kVec>
__global__ void __launch_bounds__(kThreads)
    partial_sums_kernel(const T* __restrict__ x, int64_t rows, int64_t columns, int64_t part_rows,
                        unsigned count, float* __restrict__ parts) {
  auto* shared = reinterpret_cast<float*>(shared_memory());  // [kLanes, 32 kVec]
  const int lane = threadIdx.x % 32, row_lane = threadIdx.x / 32;
  // 32 bits: a division of 64 bits is a call, around which registers spill.
  const unsigned tiles = static_cast<unsigned>((columns + 32 * kVec - 1) / (32 * kVec));
  for (unsigned block = blockIdx.x; block < tiles * count; block += gridDim.x) {
    const int64_t part = block / tiles;
    const int64_t column = int64_t{block % tiles} * 32 * kVec + lane * kVec;
    const int64_t end = (part + 1) * part_rows < rows ? (part + 1) * part_rows : rows;
    float sum[kVec] = {};
    if (column < columns) {
      for (int64_t row = part * part_rows + row_lane; row < end; row += kLanes) {
        const T* address = x + row * columns + column;
        if constexpr (kVec == 1) {
          sum[0] += to_float(*address);
        } else {
          const Pack<T> pack = load_pack(address);
#pragma unroll
          for (int v = 0; v < kVec; ++v) sum[v] += to_float(pack.value[v]);
        }
      }
    }
#pragma unroll
    for (int v = 0; v < kVec; ++v) shared[(row_lane * kVec + v) * 32 + lane] = sum[v];
    __syncthreads();
    if (row_lane == 0 && column < columns) {
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        float total = 0.0f;
        for (int r = 0; r < kLanes; ++r) total += shared[(r * kVec + v) * 32 + lane];
        parts[part * columns + column + v] = total;
      }
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads)
    total_sums_kernel(const float* __restrict__ parts, int64_t count, int64_t columns,
                      float* __restrict__ sums) {
  for (int64_t c = first_thread(); c < columns; c += all_threads()) {
    float total = 0.0f;
    for (int64_t part = 0; part < count; ++part) total += parts[part * columns + c];
    sums[c] = total;
  }
}

__global__ void __launch_bounds__(kThreads)
    copy_floats_kernel(const float* __restrict__ source, float* __restrict__ target,
                       int64_t count) {
  for (int64_t k = first_thread(); k < count; k += all_threads()) target[k] = source[k];
}

}  // namespace

cudaError_t copy_for_products(int dtype, const WeightCopy* weights, int count, const RowsCopy& rows,
                              cudaStream_t stream) {
  if (count < 0 || count > kMostCopies) return cudaErrorInvalidValue;
  return with_element_type(dtype, [&](auto element) {
    using T = decltype(element);
    WeightCopies copies = {};
    for (int i = 0; i < count; ++i) {
      copies.copy[i] = weights[i];
      copies.first_pack[i + 1] =
          copies.first_pack[i] + (weights[i].padded + kPack<T> - 1) / kPack<T>;
    }
    copies.count = count;
    const int64_t row_packs =
        rows.target == nullptr ? 0 : rows.rows * (rows.padded_columns / kPack<T>);
    return launch(copy_kernel<T>, blocks_for(copies.first_pack[count] + row_packs), kThreads, 0,
                  stream, copies, rows, row_packs);
  });
}

cudaError_t add_bias(int dtype, void* x, const void* bias, int64_t rows, int64_t columns, bool relu,
                     cudaStream_t stream) {
  return with_element_type(dtype, [&](auto element) {
    using T = decltype(element);
    return launch(relu ? bias_kernel<T, true> : bias_kernel<T, false>,
                  blocks_for((rows * columns + kPack<T> - 1) / kPack<T>), kThreads, 0, stream,
                  static_cast<T*>(x), static_cast<const T*>(bias), rows * columns, columns);
  });
}

cudaError_t mask_gradient(int dtype, const void* gradient, const void* activation, void* result,
                          int64_t count, cudaStream_t stream) {
  return with_element_type(dtype, [&](auto element) {
    using T = decltype(element);
    return launch(mask_kernel<T>, blocks_for((count + kPack<T> - 1) / kPack<T>), kThreads, 0,
                  stream, static_cast<const T*>(gradient), static_cast<const T*>(activation),
                  static_cast<T*>(result), count);
  });
}

int64_t column_sum_parts(int64_t rows) {
  const int64_t part_rows = rows_of_part(rows);
  return (rows + part_rows - 1) / part_rows;
}

cudaError_t column_sums(int dtype, const void* x, int64_t rows, int64_t columns, float* parts,
                        float* sums, cudaStream_t stream) {
  return with_element_type(dtype, [&](auto element) {
    using T = decltype(element);
    const bool wide = columns % kPack<T> == 0;
    const int64_t width = 32 * (wide ? kPack<T> : 1), count = column_sum_parts(rows);
    const cudaError_t status = launch(
        wide ? partial_sums_kernel<T, kPack<T>> : partial_sums_kernel<T, 1>,
        (columns + width - 1) / width * count, kThreads,
        static_cast<size_t>(kLanes * width) * sizeof(float), stream, static_cast<const T*>(x), rows,
        columns, rows_of_part(rows), static_cast<unsigned>(count), parts);
    if (status != cudaSuccess) return status;
    return launch(total_sums_kernel, blocks_for(columns), kThreads, 0, stream,
                  static_cast<const float*>(parts), count, columns, sums);
  });
}

cudaError_t copy_floats(const float* source, float* target, int64_t count, cudaStream_t stream) {
  return launch(copy_floats_kernel, blocks_for(count), kThreads, 0, stream, source, target, count);
}

}  // namespace dlrm::gpu::mlp
