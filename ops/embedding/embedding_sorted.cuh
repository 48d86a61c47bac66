// Deterministic embedding updates, once places have been sorted by row: one warp handles each row
// that occurs, or one block if the row has many gradients (embedding_sorted_long.cuh). In-order
// rules apply a row's gradients one after another, the others apply their sum once. Every operation
// of a rule rounds separately, so that all rules without per-row state give the same bits as a
// sequential loop.
#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_SORTED_CUH_
#define DLRM_OPS_EMBEDDING_EMBEDDING_SORTED_CUH_

#include <type_traits>

#include "embedding/embedding_sorted_long.cuh"

namespace dlrm::gpu {

// Places sorted by row, for both kinds of kernels.
struct SortedPlaces {
  uint32_t* spare;         // [count], for a list of rows
  const uint32_t* keys;    // [count]: rows; invalid ones are at the end
  const uint32_t* places;  // [count]: of the gradients
  const float* factors;    // [B T]: on the gradients; read only with kWeighted
  int64_t count;
  uint32_t invalid_row;
};

constexpr int kGradientsAtOnce = 4;

// The places of one row as its warp sees them: lanes [from, to) of its window of 32, and, if they
// reach the window's end, the places that follow.
struct Segment {
  int64_t window;
  uint32_t place;  // this lane's place in the window
  uint32_t row;
  int from, to;
};

// Calls add(gradient columns) for each place of the segment, in order.
template <int kVec, typename T, bool kWeighted, typename Add>
__device__ __forceinline__ void walk(const SortedBatch<T, kWeighted>& batch, const Segment& segment,
                                     int64_t column, Add add) {
  const bool active = column < batch.dim;
  const auto take = [&](uint32_t places, int from, int to) {
    for (int k0 = from; k0 < to; k0 += kGradientsAtOnce) {
      Columns<kVec> gradient[kGradientsAtOnce];
      float factor[kGradientsAtOnce];
#pragma unroll
      for (int k = 0; k < kGradientsAtOnce; ++k) {
        // Past the segment's end the last place is read again: from the cache, without a branch.
        const int64_t place = __shfl_sync(kFullWarp, places, k0 + k < to ? k0 + k : to - 1);
        gradient[k] = load_columns(batch.gradients + place * batch.dim + (active ? column : 0),
                                   Columns<kVec>{});
        if constexpr (kWeighted) factor[k] = load_read_only(batch.factors + place);
      }
#pragma unroll
      for (int k = 0; k < kGradientsAtOnce; ++k) {
        if constexpr (kWeighted) {
#pragma unroll
          for (int v = 0; v < kVec; ++v) {
            gradient[k].value[v] = DeviceFloat::Multiply(factor[k], gradient[k].value[v]);
          }
        }
        if (k0 + k < to) add(gradient[k]);
      }
    }
  };
  take(segment.place, segment.from, segment.to);
  if (segment.to < 32) return;
  const int lane = threadIdx.x % 32;
  for (int64_t first = segment.window + 32; first < batch.count; first += 32) {
    const bool inside = first + lane < batch.count;
    const uint32_t key = inside ? batch.keys[first + lane] : batch.invalid_row;
    const int same = __popc(__ballot_sync(kFullWarp, key == segment.row));
    take(inside ? batch.places[first + lane] : 0u, 0, same);
    if (same < 32) return;
  }
}

// Applies a rule to each gradient of a row in turn.
template <int kVec, typename Rule, typename R, typename T, bool kWeighted>
__device__ __forceinline__ void apply_in_order(const Rule& rule,
                                               const SortedBatch<T, kWeighted>& batch,
                                               const RowsAndStates<R>& table,
                                               const Segment& segment) {
  static_assert(Rule::kColumnStates == 0 && Rule::kRowStates == 0, "rules in order have no state");
  for (int64_t block = 0; block < batch.dim; block += 32 * kVec) {
    const int64_t column = block + threadIdx.x % 32 * kVec;
    R* const row = table.rows + segment.row * batch.dim + column;
    Columns<kVec> value = load_row<kVec>(row, column < batch.dim);
    walk<kVec>(batch, segment, column, [&](const Columns<kVec>& gradient) {
#pragma unroll
      for (int v = 0; v < kVec; ++v) {
        value.value[v] = rule.Apply(value.value[v], gradient.value[v], nullptr, 0.0f);
      }
    });
    store_row(row, value, column < batch.dim);
  }
}

template <int kVec, typename T, bool kWeighted>
__device__ __forceinline__ Columns<kVec> sum_of(const SortedBatch<T, kWeighted>& batch,
                                                const Segment& segment, int64_t column,
                                                float scale) {
  Columns<kVec> sum = {};
  walk<kVec>(batch, segment, column, [&](const Columns<kVec>& gradient) {
#pragma unroll
    for (int v = 0; v < kVec; ++v) sum.value[v] += gradient.value[v];
  });
#pragma unroll
  for (int v = 0; v < kVec; ++v) sum.value[v] *= scale;
  return sum;
}

// Returns, on every lane, the factor on a row's gradients from the mean square of their sum. Leaves
// the sum of the row's last block in `g`.
template <int kVec, typename Rule, typename R, typename T, bool kWeighted>
__device__ __forceinline__ float begin_row(const Rule& rule, const SortedBatch<T, kWeighted>& batch,
                                           const RowsAndStates<R>& table, const Segment& segment,
                                           float scale, Columns<kVec>* g) {
  const int lane = threadIdx.x % 32;
  float squares = 0.0f;
  for (int64_t block = 0; block < batch.dim; block += 32 * kVec) {
    const int64_t column = block + lane * kVec;
    *g = sum_of<kVec>(batch, segment, column, scale);
    if (column >= batch.dim) continue;
#pragma unroll
    for (int v = 0; v < kVec; ++v) squares += g->value[v] * g->value[v];
  }
#pragma unroll
  for (int other = 16; other > 0; other /= 2) {
    squares += __shfl_xor_sync(kFullWarp, squares, other);
  }
  float values[Rule::kRowStates];
#pragma unroll
  for (int s = 0; s < Rule::kRowStates; ++s) {
    values[s] = table.states[Rule::kColumnStates + s][segment.row];
  }
  const float factor = rule.BeginRow(squares / static_cast<float>(batch.dim), values);
  __syncwarp();
#pragma unroll
  for (int s = 0; s < Rule::kRowStates; ++s) {
    if (lane == 0) table.states[Rule::kColumnStates + s][segment.row] = values[s];
  }
  return factor;
}

// Applies a rule once to a row, with the sum of its gradients.
template <int kVec, typename Rule, typename R, typename T, bool kWeighted>
__device__ __forceinline__ void apply_summed(const Rule& rule,
                                             const SortedBatch<T, kWeighted>& batch,
                                             const RowsAndStates<R>& table, const Segment& segment,
                                             float scale) {
  constexpr int kStates = Rule::kColumnStates;
  float factor = 0.0f;
  Columns<kVec> g = {};
  if constexpr (Rule::kRowStates > 0) {
    factor = begin_row<kVec>(rule, batch, table, segment, scale, &g);
  }
  for (int64_t block = 0; block < batch.dim; block += 32 * kVec) {
    const int64_t column = block + threadIdx.x % 32 * kVec;
    const bool active = column < batch.dim;
    const int64_t offset = segment.row * batch.dim + column;
    Columns<kVec> value = load_row<kVec>(table.rows + offset, active);
    Columns<kVec> states[kStates + 1];  // + 1: an array of size 0 is not allowed
#pragma unroll
    for (int s = 0; s < kStates; ++s) states[s] = load_row<kVec>(table.states[s] + offset, active);
    // begin_row left the sum of a one-block row in g; longer rows are summed again.
    if (Rule::kRowStates == 0 || batch.dim > 32 * kVec) {
      g = sum_of<kVec>(batch, segment, column, scale);
    }
#pragma unroll
    for (int v = 0; v < kVec; ++v) {
      float of_column[kStates + 1];
#pragma unroll
      for (int s = 0; s < kStates; ++s) of_column[s] = states[s].value[v];
      value.value[v] = rule.Apply(value.value[v], g.value[v], of_column, factor);
#pragma unroll
      for (int s = 0; s < kStates; ++s) states[s].value[v] = of_column[s];
    }
#pragma unroll
    for (int s = 0; s < kStates; ++s) store_row(table.states[s] + offset, states[s], active);
    store_row(table.rows + offset, value, active);
  }
}

template <typename R, typename T, bool kWeighted, int kVec, typename Rule>
__global__ void __launch_bounds__(32 * kWarpsPerBlock, 2)
    update_kernel(SortedBatch<T, kWeighted> batch, LongChains long_chains, RowsAndStates<R> table,
                  DeviceStep device_step) {
  const RowStep step = device_step.read();
  if (step.scale == 0.0f) return;
  const Rule rule(step);
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  int64_t window = (static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32) * 32;
  for (; window < batch.count; window += warps * 32) {
    const bool inside = window + lane < batch.count;
    const uint32_t key = inside ? batch.keys[window + lane] : batch.invalid_row;
    const uint32_t place = inside ? batch.places[window + lane] : 0u;
    uint32_t before = __shfl_up_sync(kFullWarp, key, 1);
    if (lane == 0) before = window > 0 ? batch.keys[window - 1] : batch.invalid_row;
    // A row whose places start in an earlier window belongs to that window's warp.
    unsigned heads = __ballot_sync(kFullWarp, key != batch.invalid_row && key != before);
    const int used = __popc(__ballot_sync(kFullWarp, key != batch.invalid_row));
    while (heads != 0) {
      const int from = __ffs(heads) - 1;
      heads &= heads - 1;
      const int to = heads != 0 ? __ffs(heads) - 1 : used;
      const Segment segment{window, place, __shfl_sync(kFullWarp, key, from), from, to};
      if (to == 32 && long_chains.take(batch, window + from, segment.row)) break;
      if constexpr (Rule::kInOrder) {
        apply_in_order<kVec>(rule, batch, table, segment);
      } else {
        apply_summed<kVec>(rule, batch, table, segment, step.scale);
      }
    }
  }
}

// Calls `body` with a null pointer to the rule of that index.
template <template <class> class... Rules, typename Body>
cudaError_t with_rule(RowRuleList<Rules...>, int optimizer, Body body) {
  cudaError_t status = cudaErrorInvalidValue;
  int number = 0;
  ((number++ == optimizer ? void(status = body(static_cast<Rules<DeviceFloat>*>(nullptr)))
                          : void()),
   ...);
  return status;
}

// Applies the request's rule to the rows of `sorted`.
template <bool kWeighted>
cudaError_t apply_sorted(const DlrmEmbeddingBatch& batch, const DlrmEmbeddingUpdate& request,
                         const SortedPlaces& sorted, const void* gradients, void* rows,
                         cudaStream_t stream) {
  const auto apply = [&](auto* rule, auto element, auto columns, auto row) {
    using Rule = std::remove_pointer_t<decltype(rule)>;
    using T = decltype(element);
    using R = decltype(row);
    constexpr int kVec = sizeof(columns) / sizeof(float);
    SortedBatch<T, kWeighted> places;
    if constexpr (kWeighted) places.factors = sorted.factors;
    places.keys = sorted.keys;
    places.places = sorted.places;
    places.gradients = static_cast<const T*>(gradients);
    places.count = sorted.count;
    places.dim = batch.dim;
    places.invalid_row = sorted.invalid_row;
    RowsAndStates<R> table{static_cast<R*>(rows), {}, batch.dim};
    for (int s = 0; s < kMaxRowStates; ++s) table.states[s] = request.states[s];
    bool wide_states = true;
    for (int s = 0; s < Rule::kColumnStates; ++s) wide_states &= aligned(request.states[s], 16);
    const int64_t blocks = (sorted.count + 32 * kWarpsPerBlock - 1) / (32 * kWarpsPerBlock);
    const auto kernel = wide_states ? update_kernel<R, T, kWeighted, kVec, Rule>
                                    : update_kernel<R, T, kWeighted, 1, Rule>;
    LongChains long_chains{};
    if (sorted.count > kLongChain && LongShape::supports(batch, gradients, sizeof(T))) {
      long_chains = {sorted.spare, sorted.spare + 1};
      const cudaError_t status = clear_memory(long_chains.count, sizeof(uint32_t), stream);
      if (status != cudaSuccess) return status;
    }
    const DeviceStep step(request);
    const cudaError_t status =
        launch(kernel, blocks, 32 * kWarpsPerBlock, 0, stream, places, long_chains, table, step);
    if (status != cudaSuccess || long_chains.count == nullptr) return status;
    return launch(long_chain_kernel<R, T, kWeighted, Rule>, sorted.count / kLongChain, kLongThreads,
                  long_shared_bytes(kWeighted), stream, places, long_chains,
                  LongShape(batch.dim, gradients, sizeof(T)), table, step);
  };
  return with_rule(RowRules{}, request.optimizer, [&](auto* rule) {
    return with_types(batch, gradients, rows, [&](auto element, auto, auto columns, auto row) {
      return apply(rule, element, columns, row);
    });
  });
}

// The same for gradients with factors (embedding_sorted_weighted.cu).
cudaError_t apply_sorted_weighted(const DlrmEmbeddingBatch& batch,
                                  const DlrmEmbeddingUpdate& request, const SortedPlaces& sorted,
                                  const void* gradients, void* rows, cudaStream_t stream);

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_SORTED_CUH_
