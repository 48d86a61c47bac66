// The first step of every update of bags: for each id its row and the place of its bag's gradient,
// so that the later steps know neither tables nor bags.
#include "embedding/embedding_bags.cuh"

namespace dlrm::gpu {
namespace {

constexpr int kThreads = 32 * kWarpsPerBlock;

template <typename Slots>
__global__ void __launch_bounds__(kThreads)
    bag_key_kernel(Slots slots, const __grid_constant__ BagTables tables, int64_t all_slots,
                   uint32_t* __restrict__ keys, uint32_t* __restrict__ places) {
  const BagTables& shared = share(tables);
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  int64_t number = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  for (; number < slots.runs; number += warps) {
    const auto run = slots.run(shared, number);
    for (int first = 0; first < run.length; first += 32) {
      const Slot slot = slots.load(shared, run, first);
      if (!slot.inside) continue;
      const int64_t index = slot.sample * all_slots + slot.column;
      keys[index] = slot.row < 0 ? kNoRow : static_cast<uint32_t>(slot.row);
      places[index] = static_cast<uint32_t>(slot.place);
    }
  }
}

// factors[place] = 1 / the number of the bag's ids where it is pooled by the mean, else 1.
template <typename Id>
__global__ void __launch_bounds__(kThreads)
    bag_factor_kernel(FixedSlots<Id> slots, const __grid_constant__ BagTables tables,
                      float* __restrict__ factors) {
  const BagTables& shared = share(tables);
  const BatchPart<Id>& part = slots.part;
  const int64_t bags = part.batch * part.tables;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; k < bags;
       k += threads) {
    const int64_t sample = k / part.tables;
    const int table = static_cast<int>(k - sample * part.tables);
    const int first = shared.first_slot[table], end = shared.first_slot[table + 1];
    int ids = end - first;
    if (shared.mean[table] != 0 && shared.variable[table] != 0) {
      const Id* const bag = part.ids + sample * slots.all_slots + slots.first_slot + first;
      for (int slot = 0; slot < end - first; ++slot) ids -= load_read_only(bag + slot) == -1;
    }
    const bool has_factor = shared.mean[table] != 0 && ids > 1;
    factors[sample * part.all_tables + part.first_table + table] =
        has_factor ? 1.0f / static_cast<float>(ids) : 1.0f;
  }
}

template <typename Id>
cudaError_t write_factors(const FixedSlots<Id>& slots, const BagTables& tables, float* factors,
                          cudaStream_t stream) {
  const int64_t blocks = (slots.part.batch * slots.part.tables + kThreads - 1) / kThreads;
  return launch_cached(bag_factor_kernel<Id>, blocks, kThreads, sizeof(BagTables), stream, slots,
                       tables, factors);
}
template <typename Id>
cudaError_t write_factors(const JaggedSlots<Id>&, const BagTables&, float*, cudaStream_t) {
  return cudaErrorInvalidValue;  // these bags are pooled by the sum
}

}  // namespace

int64_t bag_ids_of(const DlrmEmbeddingBatch& batch) {
  constexpr int64_t kMost = 0x7fffffff;
  if (!is_valid_with_bags(batch) || batch.total_rows >= int64_t{kNoRow}) return -1;
  const int64_t slots = slots_of(batch), rows = id_rows_of(batch);
  if (slots > 0 && rows > kMost / slots) return -1;
  if (batch.tables > 0 && batch.batch > kMost / batch.tables) return -1;
  return batch.batch > 0 ? rows * slots : 0;
}

bool has_bag_factors(const DlrmEmbeddingBatch& batch) {
  if (batch.hotness == nullptr || batch.mean == nullptr) return false;
  for (int64_t t = 0; t < batch.tables; ++t) {
    if (batch.mean[t] != 0 && batch.hotness[t] > 1) return true;
  }
  return false;
}

cudaError_t write_bag_keys(const DlrmEmbeddingBatch& batch, const BagKeys& keys,
                           cudaStream_t stream) {
  const int64_t all_slots = slots_of(batch);
  if (batch.offsets != nullptr) {
    // There may be ids that belong to no bag.
    const size_t bytes = static_cast<size_t>(batch.ids_count) * sizeof(uint32_t);
    const cudaError_t status = fill_memory(keys.keys, 0xff, bytes, stream);
    if (status != cudaSuccess) return status;
  }
  const auto write = [&](const auto& slots, const BagTables& tables) {
    const int64_t blocks = (slots.runs + kWarpsPerBlock - 1) / kWarpsPerBlock;
    const cudaError_t status =
        launch_cached(bag_key_kernel<std::decay_t<decltype(slots)>>, blocks, kThreads,
                      sizeof(BagTables), stream, slots, tables, all_slots, keys.keys, keys.places);
    if (status != cudaSuccess || keys.factors == nullptr) return status;
    return write_factors(slots, tables, keys.factors, stream);
  };
  if (batch.id_type == DLRM_INT32) return for_bag_parts<int32_t>(batch, write);
  if (batch.id_type == DLRM_INT64) return for_bag_parts<int64_t>(batch, write);
  return cudaErrorInvalidValue;
}

}  // namespace dlrm::gpu
