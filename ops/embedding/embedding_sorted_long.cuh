// Part of embedding_sorted.cu: rows with more than kLongChain gradients in a batch. One block
// handles such a row, so that the time per gradient is that of an addition, not of a load.
//
// Each thread owns one column and adds the row's gradients in order. The gradients pass through a
// ring of stages in shared memory: asynchronous copies fill a stage kStages - 1 stages before it is
// added, and the copies of the places that say where its gradients are precede them by as much.
// Warps without columns issue the copies, if there are any.
#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_SORTED_LONG_CUH_
#define DLRM_OPS_EMBEDDING_EMBEDDING_SORTED_LONG_CUH_

#include "embedding/embedding_rows.cuh"

namespace dlrm::gpu {

// Factors on the gradients of a sorted batch; takes no memory if there are none.
template <bool kWeighted>
struct GradientFactors {};
template <>
struct GradientFactors<true> {
  const float* factors;  // of each place
};

// The sorted batch. Places with `invalid_row` are at its end. kWeighted: gradients have factors.
template <typename T, bool kWeighted>
struct SortedBatch : GradientFactors<kWeighted> {
  const uint32_t* keys;
  const uint32_t* places;
  const T* gradients;
  int64_t count;
  int64_t dim;
  uint32_t invalid_row;
};

constexpr int64_t kLongChain = 256;
constexpr int kLongThreads = 256;
constexpr int kStages = 8, kStageBytes = 8192, kMostStageRows = 64;
constexpr int kRowsAhead = 8;  // gradients read from shared memory before they are added
// Where the parts of shared memory begin: the ring, the places of twice as many stages, sums, and
// the factors of the ring's gradients, if there are any.
constexpr size_t kPlacesAt = kStages * kStageBytes;
constexpr size_t kSumsAt = kPlacesAt + 2 * kStages * kMostStageRows * sizeof(uint32_t);
constexpr size_t kFactorsAt = kSumsAt + kLongThreads * sizeof(float);

constexpr size_t long_shared_bytes(bool weighted) {
  return kFactorsAt + (weighted ? kStages * kMostStageRows * sizeof(float) : 0);
}

// The rows with long chains, filled by the kernel for all others. With `count` null there are none.
struct LongChains {
  uint32_t* count;
  uint32_t* first;  // where each chain begins in the sorted batch

  // Called by all lanes of the warp that has the chain's first place; returns whether it is long.
  template <typename T, bool kWeighted>
  __device__ __forceinline__ bool take(const SortedBatch<T, kWeighted>& batch, int64_t begin,
                                       uint32_t row) const {
    if (count == nullptr || begin + kLongChain >= batch.count) return false;
    if (batch.keys[begin + kLongChain] != row) return false;
    if (threadIdx.x % 32 == 0) first[take_number(count)] = static_cast<uint32_t>(begin);
    return true;
  }
};

// How rows of one size pass through the ring.
struct LongShape {
  int stage_rows;  // a multiple of kRowsAhead
  int copy_bytes;  // 16 or 8 at a time

  static bool supports(const DlrmEmbeddingBatch& batch, const void* gradients, size_t element) {
    return batch.dim % 4 == 0 && batch.dim <= kLongThreads && aligned(gradients, 4 * element);
  }
  LongShape(int64_t dim, const void* gradients, size_t element) {
    const int row_bytes = static_cast<int>(dim * static_cast<int64_t>(element));
    stage_rows = kStageBytes / row_bytes / kRowsAhead * kRowsAhead;
    if (stage_rows > kMostStageRows) stage_rows = kMostStageRows;
    copy_bytes = row_bytes % 16 == 0 && aligned(gradients, 16) ? 16 : 8;
  }
};

// The end of the chain of `row` in the sorted batch, from a place that is known to be in it; the
// same on all lanes.
template <typename T, bool kWeighted>
__device__ __forceinline__ int64_t chain_end(const SortedBatch<T, kWeighted>& batch, uint32_t row,
                                             int64_t inside) {
  int64_t end = batch.count;
  while (end - inside > 1) {
    const int64_t step = (end - inside + 31) / 32;
    const int64_t probe = inside + (threadIdx.x % 32 + 1) * step;
    const bool same = probe < end && batch.keys[probe] == row;
    const int64_t steps = __popc(__ballot_sync(kFullWarp, same));
    if (inside + (steps + 1) * step < end) end = inside + (steps + 1) * step;
    inside += steps * step;
  }
  return end;
}

// Calls add(gradient) for this thread's column of each place of the chain, in order. All threads of
// the block call this; `add` is only called if `active`.
template <typename T, bool kWeighted, typename Add>
__device__ __forceinline__ void walk_long(const SortedBatch<T, kWeighted>& batch,
                                          const LongShape& shape, int64_t first, int64_t length,
                                          bool active, Add add) {
  T* const ring = reinterpret_cast<T*>(shared_memory());
  uint32_t* const places = reinterpret_cast<uint32_t*>(shared_memory() + kPlacesAt);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int rows = shape.stage_rows, dim = static_cast<int>(batch.dim);
  const int row_bytes = dim * static_cast<int>(sizeof(T));
  const int64_t stages = (length + rows - 1) / rows;
  const int adding = (dim + 31) / 32, all = kLongThreads / 32;
  const int first_copier = adding < all ? adding : 0;

  const auto copy_places = [&](int64_t stage) {
    const int64_t index = stage * rows + thread;
    if (thread >= rows || index >= length) return;
    copy_async_small<4>(places + stage % (2 * kStages) * rows + thread,
                        batch.places + first + index);
  };
  float* const factors = reinterpret_cast<float*>(shared_memory() + kFactorsAt);
  const auto copy_gradients = [&](int64_t stage) {
    if constexpr (kWeighted) {
      if (thread < rows && stage * rows + thread < length) {
        const int64_t place = places[stage % (2 * kStages) * rows + thread];
        copy_async_small<4>(factors + stage % kStages * rows + thread, batch.factors + place);
      }
    }
    unsigned char* const slot = shared_memory() + stage % kStages * rows * row_bytes;
    for (int r = thread / 32 - first_copier; r < rows; r += all - first_copier) {
      if (r < 0 || stage * rows + r >= length) return;
      const int64_t place = places[stage % (2 * kStages) * rows + r];
      const auto* from = reinterpret_cast<const unsigned char*>(batch.gradients + place * dim);
      for (int at = lane * shape.copy_bytes; at < row_bytes; at += 32 * shape.copy_bytes) {
        if (shape.copy_bytes == 16) {
          copy_async_16(slot + r * row_bytes + at, from + at);
        } else {
          copy_async_small<8>(slot + r * row_bytes + at, from + at);
        }
      }
    }
  };

  // All places of an earlier chain have been read: a barrier followed. The ring is reused after the
  // next barrier.
  for (int k = thread; k < (kStages - 1) * rows && k < length; k += kLongThreads) {
    places[k] = batch.places[first + k];
  }
  __syncthreads();
  for (int stage = 0; stage < kStages - 1; ++stage) {
    copy_gradients(stage);
    copy_places(stage + kStages - 1);
    copy_async_commit();
  }
  for (int64_t stage = 0; stage < stages; ++stage) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    copy_gradients(stage + kStages - 1);
    copy_places(stage + 2 * kStages - 2);
    copy_async_commit();
    if (!active) continue;
    const T* column = ring + stage % kStages * rows * dim + thread;
    const float* factor = factors + stage % kStages * rows;
    const auto add_scaled = [&](T gradient) {
      if constexpr (kWeighted) {
        add(DeviceFloat::Multiply(*factor++, to_float(gradient)));
      } else {
        add(to_float(gradient));
      }
    };
    int left = length - stage * rows < rows ? static_cast<int>(length - stage * rows) : rows;
    T now[kRowsAhead];
#pragma unroll
    for (int k = 0; k < kRowsAhead; ++k) now[k] = column[k * dim];
    while (left > kRowsAhead) {
      column += kRowsAhead * dim;
      left -= kRowsAhead;
      T next[kRowsAhead];
#pragma unroll
      for (int k = 0; k < kRowsAhead; ++k) next[k] = column[k * dim];
#pragma unroll
      for (int k = 0; k < kRowsAhead; ++k) add_scaled(now[k]);
#pragma unroll
      for (int k = 0; k < kRowsAhead; ++k) now[k] = next[k];
    }
#pragma unroll
    for (int k = 0; k < kRowsAhead; ++k) {
      if (k < left) add_scaled(now[k]);
    }
  }
}

// Returns, on every thread, the factor on a row's gradients from the mean square of their sum `g`,
// added in the order of the kernel for short chains.
template <typename Rule, typename R>
__device__ __forceinline__ float begin_long_row(const Rule& rule, const RowsAndStates<R>& table,
                                                int64_t row, float g, bool active) {
  float* const sums = reinterpret_cast<float*>(shared_memory() + kSumsAt);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  if (active) sums[thread] = g;
  __syncthreads();
  float squares = 0.0f;
  for (int column = lane * 4; column < table.dimension; column += 128) {
#pragma unroll
    for (int v = 0; v < 4; ++v) squares += sums[column + v] * sums[column + v];
  }
#pragma unroll
  for (int other = 16; other > 0; other /= 2) {
    squares += __shfl_xor_sync(kFullWarp, squares, other);
  }
  float values[Rule::kRowStates];
#pragma unroll
  for (int s = 0; s < Rule::kRowStates; ++s) {
    values[s] = table.states[Rule::kColumnStates + s][row];
  }
  const float factor = rule.BeginRow(squares / static_cast<float>(table.dimension), values);
  __syncthreads();
#pragma unroll
  for (int s = 0; s < Rule::kRowStates; ++s) {
    if (thread == 0) table.states[Rule::kColumnStates + s][row] = values[s];
  }
  return factor;
}

template <typename R, typename T, bool kWeighted, typename Rule>
__global__ void __launch_bounds__(kLongThreads, 2)
    long_chain_kernel(SortedBatch<T, kWeighted> batch, LongChains chains, LongShape shape,
                      RowsAndStates<R> table, DeviceStep device_step) {
  const RowStep step = device_step.read();
  if (step.scale == 0.0f) return;
  const Rule rule(step);
  const bool active = threadIdx.x < batch.dim;
  const uint32_t count = *chains.count;
  for (uint32_t chain = blockIdx.x; chain < count; chain += gridDim.x) {
    const int64_t first = chains.first[chain];
    const uint32_t row = batch.keys[first];
    const int64_t length = chain_end(batch, row, first + kLongChain) - first;
    const int64_t offset = row * batch.dim + threadIdx.x;
    Columns<1> value = load_row<1>(table.rows + offset, active);
    float& weight = value.value[0];
    if constexpr (Rule::kInOrder) {
      walk_long(batch, shape, first, length, active,
                [&](float gradient) { weight = rule.Apply(weight, gradient, nullptr, 0.0f); });
    } else {
      constexpr int kStates = Rule::kColumnStates;
      float g = 0.0f, factor = 0.0f;
      walk_long(batch, shape, first, length, active, [&](float gradient) { g += gradient; });
      g *= step.scale;
      if constexpr (Rule::kRowStates > 0) factor = begin_long_row(rule, table, row, g, active);
      float states[kStates + 1];  // + 1: an array of size 0 is not allowed
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        states[s] = load_row<1>(table.states[s] + offset, active).value[0];
      }
      weight = rule.Apply(weight, g, states, factor);
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        store_row(table.states[s] + offset, Columns<1>{{states[s]}}, active);
      }
    }
    store_row(table.rows + offset, value, active);
  }
}

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_SORTED_LONG_CUH_
