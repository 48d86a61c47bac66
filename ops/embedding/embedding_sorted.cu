// Deterministic embedding updates: places are sorted by row (stable), then one warp handles each
// row that occurs, or one block if the row has many gradients (embedding_sorted_long.cuh). In-order
// rules apply a row's gradients one after another, the others apply their sum once. Every operation
// of a rule rounds separately, so that all rules without per-row state give the same bits as a
// sequential loop.
#include <type_traits>

#include "embedding/embedding_sorted_long.cuh"
#include "embedding/radix_sort.cuh"

namespace dlrm::gpu {
namespace {

constexpr int kGradientsAtOnce = 4;

// keys[place] = row, or `invalid_row` for an id out of range; places[place] = place.
template <typename Id>
__global__ void __launch_bounds__(256)
    key_kernel(BatchPart<Id> part, const __grid_constant__ TableRanges ranges, uint32_t invalid_row,
               uint32_t* __restrict__ keys, uint32_t* __restrict__ places) {
  const int64_t count = part.batch * part.tables;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < count;
       k += threads) {
    const int64_t sample = k / part.tables;
    const int table = static_cast<int>(k - sample * part.tables);
    const int64_t row = checked_row(part, ranges, sample, table);
    const int64_t place = sample * part.all_tables + part.first_table + table;
    keys[place] = row < 0 ? invalid_row : static_cast<uint32_t>(row);
    places[place] = static_cast<uint32_t>(place);
  }
}

// The places of one row as its warp sees them: lanes [from, to) of its window of 32, and, if they
// reach the window's end, the places that follow.
struct Segment {
  int64_t window;
  uint32_t place;  // this lane's place in the window
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
        // Past the segment's end the last place is read again: from the cache, without a branch.
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
    const uint32_t key = inside ? batch.keys[first + lane] : batch.invalid_row;
    const int same = __popc(__ballot_sync(kFullWarp, key == segment.row));
    take(inside ? batch.places[first + lane] : 0u, 0, same);
    if (same < 32) return;
  }
}

// Applies a rule to each gradient of a row in turn.
template <int kVec, typename Rule, typename R, typename T>
__device__ __forceinline__ void apply_in_order(const Rule& rule, const SortedBatch<T>& batch,
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

// Returns, on every lane, the factor on a row's gradients from the mean square of their sum. Leaves
// the sum of the row's last block in `g`.
template <int kVec, typename Rule, typename R, typename T>
__device__ __forceinline__ float begin_row(const Rule& rule, const SortedBatch<T>& batch,
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
template <int kVec, typename Rule, typename R, typename T>
__device__ __forceinline__ void apply_summed(const Rule& rule, const SortedBatch<T>& batch,
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

template <typename R, typename T, int kVec, typename Rule>
__global__ void __launch_bounds__(32 * kWarpsPerBlock, 2)
    update_kernel(SortedBatch<T> batch, LongChains long_chains, RowsAndStates<R> table,
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

constexpr size_t kAlignment = 256;

size_t aligned_size(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int bits_of(uint32_t value) {
  int bits = 1;
  while (bits < 32 && value >> bits != 0) ++bits;
  return bits;
}

// Device memory of an update: keys, places, both sorted, then temporary memory of the sort.
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
cudaError_t update(const DlrmEmbeddingBatch& batch, const DlrmEmbeddingUpdate& request,
                   const void* gradients, void* rows, void* workspace, size_t workspace_bytes,
                   cudaStream_t stream) {
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
  const auto invalid_row = static_cast<uint32_t>(batch.total_rows);
  bool wide_states = true;
  for (int s = 0; s < Rule::kColumnStates; ++s) wide_states &= aligned(request.states[s], 16);

  return with_types(batch, gradients, rows, [&](auto element, auto id, auto columns, auto row) {
    using T = decltype(element);
    using Id = decltype(id);
    using R = decltype(row);
    constexpr int kVec = sizeof(columns) / sizeof(float);
    status = for_table_parts<Id>(batch, [&](const BatchPart<Id>& part, const TableRanges& ranges) {
      const int64_t blocks = (part.batch * part.tables + 255) / 256;
      return launch(key_kernel<Id>, blocks, 256, 0, stream, part, ranges, invalid_row, keys,
                    places);
    });
    if (status != cudaSuccess) return status;
    status = sort_pairs(memory + 4 * plan.array, plan.sort, keys, sorted_keys, places,
                        sorted_places, plan.count, plan.key_bits, stream);
    if (status != cudaSuccess) return status;
    const SortedBatch<T> sorted{sorted_keys, sorted_places, static_cast<const T*>(gradients),
                                plan.count,  batch.dim,     invalid_row};
    RowsAndStates<R> table{static_cast<R*>(rows), {}, batch.dim};
    for (int s = 0; s < kMaxRowStates; ++s) table.states[s] = request.states[s];
    const int64_t blocks = (int64_t{plan.count} + 32 * kWarpsPerBlock - 1) / (32 * kWarpsPerBlock);
    const auto kernel =
        wide_states ? update_kernel<R, T, kVec, Rule> : update_kernel<R, T, 1, Rule>;
    // The sort has read `keys`, which now takes the list of long chains.
    LongChains long_chains{};
    if (plan.count > kLongChain && LongShape::supports(batch, gradients, sizeof(T))) {
      long_chains = {keys, keys + 1};
      status = clear_memory(long_chains.count, sizeof(uint32_t), stream);
      if (status != cudaSuccess) return status;
    }
    const DeviceStep step(request);
    status =
        launch(kernel, blocks, 32 * kWarpsPerBlock, 0, stream, sorted, long_chains, table, step);
    if (status != cudaSuccess || long_chains.count == nullptr) return status;
    return launch(long_chain_kernel<R, T, Rule>, plan.count / kLongChain, kLongThreads,
                  kLongSharedBytes, stream, sorted, long_chains,
                  LongShape(batch.dim, gradients, sizeof(T)), table, step);
  });
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

}  // namespace

cudaError_t sorted_workspace_bytes(const DlrmEmbeddingBatch& batch, size_t* bytes) {
  Workspace plan;
  const cudaError_t status = plan.plan(batch);
  if (status == cudaSuccess) *bytes = plan.bytes();
  return status;
}

cudaError_t sorted_update(const DlrmEmbeddingBatch& batch, const DlrmEmbeddingUpdate& request,
                          const void* gradients, void* rows, void* workspace,
                          size_t workspace_bytes, cudaStream_t stream) {
  return with_rule(RowRules{}, request.optimizer, [&](auto* rule) {
    using Rule = std::remove_pointer_t<decltype(rule)>;
    return update<Rule>(batch, request, gradients, rows, workspace, workspace_bytes, stream);
  });
}

}  // namespace dlrm::gpu
