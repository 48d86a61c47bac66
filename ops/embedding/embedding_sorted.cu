// Embedding updates that have one result: places sorted by row (stable), then one warp for each
// row that occurs. SGD applies a row's gradients one after another, Adagrad their sum once. Every
// operation rounds by itself (no fused multiply-add), so that SGD and full Adagrad give the bits
// that a sequential loop gives.
#include "embedding/embedding_rows.cuh"
#include "embedding/radix_sort.cuh"

namespace dlrm::gpu {
namespace {

constexpr int kGradientsAtOnce = 4;

// keys[place] = row, or `nowhere` for an id out of range; places[place] = place.
template <typename Id>
__global__ void __launch_bounds__(256)
    key_kernel(BatchPart<Id> part, const __grid_constant__ TableRanges ranges, uint32_t nowhere,
               uint32_t* __restrict__ keys, uint32_t* __restrict__ places) {
  const int64_t count = part.batch * part.tables;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < count;
       k += threads) {
    const int64_t sample = k / part.tables;
    const int table = static_cast<int>(k - sample * part.tables);
    const int64_t row = checked_row(part, ranges, sample, table);
    const int64_t place = sample * part.all_tables + part.first_table + table;
    keys[place] = row < 0 ? nowhere : static_cast<uint32_t>(row);
    places[place] = static_cast<uint32_t>(place);
  }
}

// The sorted batch. Row `nowhere` stands at its end.
template <typename T>
struct SortedBatch {
  const uint32_t* keys;
  const uint32_t* places;
  const T* gradients;
  int64_t count;
  int64_t dim;
  uint32_t nowhere;
};

// One row's places, as one warp sees them: in its window of 32 from lane `from` to `to`, and, if
// they reach the window's end, beyond it.
struct Segment {
  int64_t window;
  uint32_t place;  // this lane's of the window
  uint32_t row;
  int from, to;
};

// Calls add(gradient columns) for each place of the segment, in order.
template <int kVec, typename T, typename Add>
__device__ __forceinline__ void walk(const SortedBatch<T>& batch, const Segment& segment,
                                     int64_t column, Add add) {
  const bool active = column < batch.dim;
  const auto take = [&](uint32_t places, int from, int to) {
    for (int k0 = from; k0 < to; k0 += kGradientsAtOnce) {
      Columns<kVec> gradient[kGradientsAtOnce];
#pragma unroll
      for (int k = 0; k < kGradientsAtOnce; ++k) {
        // Past the segment's end its last place is read again: from the cache, without a branch.
        const int64_t place = __shfl_sync(kFullWarp, places, k0 + k < to ? k0 + k : to - 1);
        gradient[k] = load_columns(batch.gradients + place * batch.dim + (active ? column : 0),
                                   Columns<kVec>{});
      }
#pragma unroll
      for (int k = 0; k < kGradientsAtOnce; ++k) {
        if (k0 + k < to) add(gradient[k]);
      }
    }
  };
  take(segment.place, segment.from, segment.to);
  if (segment.to < 32) return;
  const int lane = threadIdx.x % 32;
  for (int64_t first = segment.window + 32; first < batch.count; first += 32) {
    const bool inside = first + lane < batch.count;
    const uint32_t key = inside ? batch.keys[first + lane] : batch.nowhere;
    const int same = __popc(__ballot_sync(kFullWarp, key == segment.row));
    take(inside ? batch.places[first + lane] : 0u, 0, same);
    if (same < 32) return;
  }
}

// Plain accesses to memory that this kernel also writes.
template <int kVec>
struct RowColumns {
  float* address;
  bool active;

  __device__ __forceinline__ Columns<kVec> load() const {
    if (!active) return {};
    if constexpr (kVec == 4) {
      const float4 v = *reinterpret_cast<const float4*>(address);
      return {{v.x, v.y, v.z, v.w}};
    } else {
      return {{*address}};
    }
  }
  __device__ __forceinline__ void store(const Columns<kVec>& c) const {
    if (!active) return;
    if constexpr (kVec == 4) {
      *reinterpret_cast<float4*>(address) =
          make_float4(c.value[0], c.value[1], c.value[2], c.value[3]);
    } else {
      *address = c.value[0];
    }
  }
};

struct Sgd {
  float* rows;
  float step;

  template <int kVec, typename T>
  __device__ __forceinline__ void apply(const SortedBatch<T>& batch, const Segment& segment) const {
    for (int64_t block = 0; block < batch.dim; block += 32 * kVec) {
      const int64_t column = block + threadIdx.x % 32 * kVec;
      const RowColumns<kVec> row{rows + segment.row * batch.dim + column, column < batch.dim};
      Columns<kVec> value = row.load();
      walk<kVec>(batch, segment, column, [&](const Columns<kVec>& gradient) {
#pragma unroll
        for (int v = 0; v < kVec; ++v) {
          value.value[v] = __fsub_rn(value.value[v], __fmul_rn(step, gradient.value[v]));
        }
      });
      row.store(value);
    }
  }
};

template <int kVec, typename T>
__device__ __forceinline__ Columns<kVec> sum_of(const SortedBatch<T>& batch, const Segment& segment,
                                                int64_t column, float scale) {
  Columns<kVec> sum = {};
  walk<kVec>(batch, segment, column, [&](const Columns<kVec>& gradient) {
#pragma unroll
    for (int v = 0; v < kVec; ++v) sum.value[v] += gradient.value[v];
  });
#pragma unroll
  for (int v = 0; v < kVec; ++v) sum.value[v] *= scale;
  return sum;
}

struct Adagrad {
  float* rows;
  float* accumulator;
  float learning_rate, scale, epsilon;

  template <int kVec, typename T>
  __device__ __forceinline__ void apply(const SortedBatch<T>& batch, const Segment& segment) const {
    for (int64_t block = 0; block < batch.dim; block += 32 * kVec) {
      const int64_t column = block + threadIdx.x % 32 * kVec;
      const int64_t offset = segment.row * batch.dim + column;
      const RowColumns<kVec> row{rows + offset, column < batch.dim};
      const RowColumns<kVec> state{accumulator + offset, column < batch.dim};
      Columns<kVec> value = row.load(), squares = state.load();
      const Columns<kVec> g = sum_of<kVec>(batch, segment, column, scale);
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        squares.value[v] = __fadd_rn(squares.value[v], __fmul_rn(g.value[v], g.value[v]));
        const float change =
            __fmul_rn(learning_rate, g.value[v]) / (sqrtf(squares.value[v]) + epsilon);
        value.value[v] = __fsub_rn(value.value[v], change);
      }
      state.store(squares);
      row.store(value);
    }
  }
};

struct RowWiseAdagrad {
  float* rows;
  float* accumulator;
  float learning_rate, scale, epsilon;

  template <int kVec, typename T>
  __device__ __forceinline__ void apply(const SortedBatch<T>& batch, const Segment& segment) const {
    const int lane = threadIdx.x % 32;
    float squares = 0.0f;
    Columns<kVec> g = {};
    for (int64_t block = 0; block < batch.dim; block += 32 * kVec) {
      const int64_t column = block + lane * kVec;
      g = sum_of<kVec>(batch, segment, column, scale);
      if (column >= batch.dim) continue;
#pragma unroll
      for (int v = 0; v < kVec; ++v) squares += g.value[v] * g.value[v];
    }
#pragma unroll
    for (int other = 16; other > 0; other /= 2) {
      squares += __shfl_xor_sync(kFullWarp, squares, other);
    }
    const float state = accumulator[segment.row] + squares / static_cast<float>(batch.dim);
    __syncwarp();
    if (lane == 0) accumulator[segment.row] = state;
    const float factor = learning_rate / (sqrtf(state) + epsilon);
    for (int64_t block = 0; block < batch.dim; block += 32 * kVec) {
      const int64_t column = block + lane * kVec;
      // Rows of one block keep their sum in registers; longer ones are summed again.
      if (batch.dim > 32 * kVec) g = sum_of<kVec>(batch, segment, column, scale);
      const RowColumns<kVec> row{rows + segment.row * batch.dim + column, column < batch.dim};
      Columns<kVec> value = row.load();
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        value.value[v] = __fsub_rn(value.value[v], __fmul_rn(factor, g.value[v]));
      }
      row.store(value);
    }
  }
};

template <typename T, int kVec, typename Rule>
__global__ void __launch_bounds__(32 * kWarpsPerBlock, 2)
    update_kernel(SortedBatch<T> batch, Rule rule) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  int64_t window = (static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32) * 32;
  for (; window < batch.count; window += warps * 32) {
    const bool inside = window + lane < batch.count;
    const uint32_t key = inside ? batch.keys[window + lane] : batch.nowhere;
    const uint32_t place = inside ? batch.places[window + lane] : 0u;
    uint32_t before = __shfl_up_sync(kFullWarp, key, 1);
    if (lane == 0) before = window > 0 ? batch.keys[window - 1] : batch.nowhere;
    // A row whose places began in an earlier window belongs to that window's warp.
    unsigned heads = __ballot_sync(kFullWarp, key != batch.nowhere && key != before);
    const int used = __popc(__ballot_sync(kFullWarp, key != batch.nowhere));
    while (heads != 0) {
      const int from = __ffs(heads) - 1;
      heads &= heads - 1;
      const int to = heads != 0 ? __ffs(heads) - 1 : used;
      const Segment segment{window, place, __shfl_sync(kFullWarp, key, from), from, to};
      rule.template apply<kVec>(batch, segment);
    }
  }
}

constexpr size_t kAlignment = 256;

size_t aligned_size(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int bits_of(uint32_t value) {
  int bits = 1;
  while (bits < 32 && value >> bits != 0) ++bits;
  return bits;
}

// Keys, places and their sorted forms, then the sort's own memory.
struct Workspace {
  size_t array = 0, sort = 0;
  int count = 0, key_bits = 0;

  cudaError_t plan(const DlrmEmbeddingBatch& batch) {
    if (!is_valid(batch) || batch.total_rows >= int64_t{0xffffffff}) return cudaErrorInvalidValue;
    if (batch.tables > 0 && batch.batch > 0x7fffffff / batch.tables) return cudaErrorInvalidValue;
    count = static_cast<int>(batch.batch * batch.tables);
    key_bits = bits_of(static_cast<uint32_t>(batch.total_rows));
    array = aligned_size(static_cast<size_t>(count) * sizeof(uint32_t));
    const uint32_t* in = nullptr;
    uint32_t* out = nullptr;
    return sort_pairs(nullptr, sort, in, out, in, out, count, key_bits, nullptr);
  }
  size_t bytes() const { return 4 * array + sort; }
};

template <typename Rule>
cudaError_t update(const DlrmEmbeddingBatch& batch, const void* gradients, Rule rule,
                   bool wide_state, void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  Workspace plan;
  cudaError_t status = plan.plan(batch);
  if (status != cudaSuccess) return status;
  if (plan.count == 0) return cudaSuccess;
  if (workspace_bytes < plan.bytes() || !aligned(workspace, kAlignment)) {
    return cudaErrorInvalidValue;
  }
  auto* memory = static_cast<unsigned char*>(workspace);
  auto* keys = reinterpret_cast<uint32_t*>(memory);
  auto* places = reinterpret_cast<uint32_t*>(memory + plan.array);
  auto* sorted_keys = reinterpret_cast<uint32_t*>(memory + 2 * plan.array);
  auto* sorted_places = reinterpret_cast<uint32_t*>(memory + 3 * plan.array);
  const auto nowhere = static_cast<uint32_t>(batch.total_rows);

  return with_types(batch, gradients, rule.rows, [&](auto element, auto id, auto columns) {
    using T = decltype(element);
    using Id = decltype(id);
    constexpr int kVec = sizeof(columns) / sizeof(float);
    status = for_table_parts<Id>(batch, [&](const BatchPart<Id>& part, const TableRanges& ranges) {
      const int64_t blocks = (part.batch * part.tables + 255) / 256;
      return launch(key_kernel<Id>, blocks, 256, 0, stream, part, ranges, nowhere, keys, places);
    });
    if (status != cudaSuccess) return status;
    status = sort_pairs(memory + 4 * plan.array, plan.sort, keys, sorted_keys, places,
                        sorted_places, plan.count, plan.key_bits, stream);
    if (status != cudaSuccess) return status;
    const SortedBatch<T> sorted{sorted_keys,  sorted_places, static_cast<const T*>(gradients),
                                plan.count,   batch.dim,     nowhere};
    const int64_t blocks = (int64_t{plan.count} + 32 * kWarpsPerBlock - 1) / (32 * kWarpsPerBlock);
    const auto kernel = wide_state ? update_kernel<T, kVec, Rule> : update_kernel<T, 1, Rule>;
    return launch(kernel, blocks, 32 * kWarpsPerBlock, 0, stream, sorted, rule);
  });
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" {

cudaError_t dlrm_embedding_workspace_bytes(const DlrmEmbeddingBatch* batch, size_t* bytes) {
  dlrm::gpu::Workspace plan;
  const cudaError_t status = plan.plan(*batch);
  *bytes = status == cudaSuccess ? plan.bytes() : 0;
  return status;
}

cudaError_t dlrm_embedding_sgd_sorted(const DlrmEmbeddingBatch* batch, const void* gradients,
                                      float* rows, float step, void* workspace,
                                      size_t workspace_bytes, cudaStream_t stream) {
  return dlrm::gpu::update(*batch, gradients, dlrm::gpu::Sgd{rows, step}, true, workspace, workspace_bytes,
                      stream);
}

cudaError_t dlrm_embedding_adagrad(const DlrmEmbeddingBatch* batch, const void* gradients,
                                   float* rows, float* accumulator, int row_wise,
                                   float learning_rate, float scale, float epsilon,
                                   void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (row_wise != 0) {
    return dlrm::gpu::update(*batch, gradients,
                        dlrm::gpu::RowWiseAdagrad{rows, accumulator, learning_rate, scale, epsilon},
                        true, workspace, workspace_bytes, stream);
  }
  return dlrm::gpu::update(*batch, gradients,
                      dlrm::gpu::Adagrad{rows, accumulator, learning_rate, scale, epsilon},
                      dlrm::gpu::aligned(accumulator, 16), workspace, workspace_bytes, stream);
}

}  // extern "C"
