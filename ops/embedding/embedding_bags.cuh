// Shared by the kernels for bags of ids (embedding_bags_*.cu): where the ids of a batch are, and to
// which bag each belongs.
//
// A warp takes a run of whole neighbouring bags and reads their slots 32 at a time, one per lane,
// across the borders of bags: so short bags keep all lanes busy, and the rows of a long one can be
// loaded several at a time. Both classes of slots have
//   Run, run(tables, number)      the run of that number < runs, which has `length` slots;
//   load(tables, run, first)      this lane's slot, of the 32 from the run's slot `first`;
//   empty_bags(run)               one bit for each bag of the run from `run.bag`: it has no slot.
// All lanes of a warp call them together.
#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_BAGS_CUH_
#define DLRM_OPS_EMBEDDING_EMBEDDING_BAGS_CUH_

#include <type_traits>

#include "embedding/embedding_rows.cuh"

namespace dlrm::gpu {

// About as many slots as a run has.
constexpr int64_t kRunSlots = 64;
// Key of an id without a row. No row has it: see bag_keys.
constexpr uint32_t kNoRow = 0xffffffffu;

// Tables of one launch. Fields of JaggedSlots' only table: `ranges`.
struct BagTables {
  TableRanges ranges;
  int32_t first_slot[kTablesPerLaunch + 1];  // from the first slot of these tables
  uint8_t mean[kTablesPerLaunch];
  uint8_t variable[kTablesPerLaunch];
};

// Copies the tables to shared memory (sizeof(BagTables) bytes): lanes read different tables at the
// same time, which memory of kernel parameters serves one by one. Called by all threads.
__device__ __forceinline__ const BagTables& share(const BagTables& tables) {
  static_assert(sizeof(BagTables) % sizeof(uint32_t) == 0, "copied in words");
  auto* const words = reinterpret_cast<uint32_t*>(shared_memory());
  for (unsigned k = threadIdx.x; k < sizeof(BagTables) / sizeof(uint32_t); k += blockDim.x) {
    uint32_t word;
    memcpy(&word, reinterpret_cast<const unsigned char*>(&tables) + sizeof(word) * k, sizeof(word));
    words[k] = word;
  }
  __syncthreads();
  return *reinterpret_cast<const BagTables*>(words);
}

// A slot of a batch.
struct Slot {
  int64_t row = -1;       // -1: no id, or an id out of range
  int64_t place = 0;      // of its bag in the vectors: sample * T + table
  int64_t sample = 0;     // of JaggedSlots: the index in ids
  int64_t column = 0;     // in ids [B, W]; of JaggedSlots: 0
  bool inside = false;    // of the run
  bool has_id = false;    // good or not
  bool ends_bag = false;  // the last slot of its bag
  bool is_pooled_by_mean = false;
};

// Slots of a batch [B, W]. Runs are divided at the bags that begin at multiples of kRunSlots, or
// next.
template <typename Id>
struct FixedSlots {
  BatchPart<Id> part;
  int64_t all_slots;   // W
  int64_t first_slot;  // of the part's tables
  int slots;           // of the part's tables
  int64_t runs;

  struct Run {
    int64_t sample;  // of the run's first slot, as `slot`
    int slot;
    int length;
    static constexpr int64_t bag = 0;  // see empty_bags
  };

  __device__ __forceinline__ int table_of(const BagTables& tables, int slot) const {
    int table = 0, end = part.tables;
    while (end - table > 1) {
      const int middle = (table + end) / 2;
      if (tables.first_slot[middle] <= slot) {
        table = middle;
      } else {
        end = middle;
      }
    }
    return table;
  }

  // The first position in [B, slots] that begins a bag and is not before `position`.
  __device__ __forceinline__ int64_t bag_from(const BagTables& tables, int64_t position) const {
    const int64_t all = part.batch * slots;
    if (position >= all) return all;
    const int slot = static_cast<int>(position % slots);
    const int table = table_of(tables, slot);
    if (tables.first_slot[table] == slot) return position;
    return position - slot + tables.first_slot[table + 1];
  }

  __device__ __forceinline__ Run run(const BagTables& tables, int64_t number) const {
    const int64_t first = bag_from(tables, number * kRunSlots);
    const int64_t end = bag_from(tables, (number + 1) * kRunSlots);
    return {first / slots, static_cast<int>(first % slots), static_cast<int>(end - first)};
  }

  __device__ __forceinline__ Slot load(const BagTables& tables, const Run& run, int first) const {
    Slot slot;
    const int at = first + static_cast<int>(threadIdx.x % 32);
    slot.inside = at < run.length;
    if (!slot.inside) return slot;
    const int samples = (run.slot + at) / slots;
    const int column = run.slot + at - samples * slots;
    const int table = table_of(tables, column);
    slot.sample = run.sample + samples;
    slot.column = first_slot + column;
    slot.place = slot.sample * part.all_tables + part.first_table + table;
    slot.ends_bag = column + 1 == tables.first_slot[table + 1];
    slot.is_pooled_by_mean = tables.mean[table] != 0;
    const int64_t id = load_read_only(part.ids + slot.sample * all_slots + slot.column);
    slot.has_id = id != -1 || tables.variable[table] == 0;
    if (slot.has_id) {
      slot.row = row_of_id(part, tables.ranges, id, slot.sample, table, part.first_table + table);
    }
    return slot;
  }

  __device__ __forceinline__ unsigned empty_bags(const Run&) const { return 0; }
};

// Slots of bags of any length, of one table. A run has the same number of bags, at most 32.
template <typename Id>
struct JaggedSlots {
  BatchPart<Id> part;
  const int32_t* offsets;
  int ids_count;
  int bags_per_run;
  int64_t runs;

  struct Run {
    int64_t bag;  // the first one
    int first;    // index of its first id
    int end;      // of this lane's bag, or of the run
    bool is_empty;
    int length;
  };

  __device__ __forceinline__ int offset(int64_t bag) const {
    const int value = load_read_only(offsets + bag);
    return value < 0 ? 0 : value > ids_count ? ids_count : value;
  }

  __device__ __forceinline__ Run run(const BagTables&, int64_t number) const {
    const int lane = threadIdx.x % 32;
    Run run;
    run.bag = number * bags_per_run;
    const int64_t left = part.batch - run.bag;
    const int bags = left < bags_per_run ? static_cast<int>(left) : bags_per_run;
    run.first = offset(run.bag);
    run.end = offset(run.bag + (lane < bags ? lane + 1 : bags));
    if (run.end < run.first) run.end = run.first;
    // No offset may be less than an earlier one.
#pragma unroll
    for (int delta = 1; delta < 32; delta *= 2) {
      const int before = __shfl_up_sync(kFullWarp, run.end, delta);
      if (lane >= delta && before > run.end) run.end = before;
    }
    const int begin = __shfl_up_sync(kFullWarp, run.end, 1);
    run.is_empty = lane < bags && run.end == (lane == 0 ? run.first : begin);
    run.length = __shfl_sync(kFullWarp, run.end, 31) - run.first;
    return run;
  }

  __device__ __forceinline__ Slot load(const BagTables& tables, const Run& run, int first) const {
    Slot slot;
    const int at = first + static_cast<int>(threadIdx.x % 32);
    // The first bag that ends after the index.
    const int index = run.first + at;
    int bag = 0;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      if (__shfl_sync(kFullWarp, run.end, bag + step - 1) <= index) bag += step;
    }
    const int end = __shfl_sync(kFullWarp, run.end, bag);
    slot.inside = slot.has_id = at < run.length;
    if (!slot.inside) return slot;
    slot.sample = index;
    slot.place = run.bag + bag;
    slot.ends_bag = index + 1 == end;
    slot.row = row_of_id(part, tables.ranges, load_read_only(part.ids + index), slot.place, 0, 0);
    return slot;
  }

  __device__ __forceinline__ unsigned empty_bags(const Run& run) const {
    return __ballot_sync(kFullWarp, run.is_empty);
  }
};

inline bool has_bags(const DlrmEmbeddingBatch& batch) {
  return batch.hotness != nullptr || batch.offsets != nullptr;
}

// W, the ids of a sample of a batch with bags; 1 for bags of any length.
inline int64_t slots_of(const DlrmEmbeddingBatch& batch) {
  if (batch.offsets != nullptr) return 1;
  int64_t slots = 0;
  for (int64_t t = 0; t < batch.tables; ++t) slots += batch.hotness[t];
  return slots;
}

// The rows of ids [rows, W]: B, or for bags of any length the number of ids.
inline int64_t id_rows_of(const DlrmEmbeddingBatch& batch) {
  return batch.offsets != nullptr ? batch.ids_count : batch.batch;
}

inline bool is_valid_with_bags(const DlrmEmbeddingBatch& batch) {
  constexpr int64_t kMost = 0x7fffffff;
  if (!is_valid(batch)) return false;
  if (batch.offsets != nullptr) {
    return batch.hotness == nullptr && batch.tables == 1 && batch.ids_count >= 0 &&
           batch.ids_count <= kMost - kRunSlots;
  }
  for (int64_t t = 0; t < batch.tables; ++t) {
    if (batch.hotness[t] < 1) return false;
  }
  return slots_of(batch) <= kMost / 2;
}

// Calls `body(slots, tables)` for each group of at most kTablesPerLaunch tables of a valid batch.
template <typename Id, typename Body>
cudaError_t for_bag_parts(const DlrmEmbeddingBatch& batch, Body body) {
  const int64_t all_slots = slots_of(batch);
  int64_t first_slot = 0;
  return for_table_parts<Id>(batch, [&](const BatchPart<Id>& part, const TableRanges& ranges) {
    BagTables tables = {};
    tables.ranges = ranges;
    if (batch.offsets != nullptr) {
      // As many bags as have kRunSlots ids, if all are equally long.
      int64_t bags = batch.ids_count > 0 ? kRunSlots * batch.batch / batch.ids_count : 32;
      bags = bags < 1 ? 1 : bags > 32 ? 32 : bags;
      return body(JaggedSlots<Id>{part, batch.offsets, static_cast<int>(batch.ids_count),
                                  static_cast<int>(bags), (batch.batch + bags - 1) / bags},
                  tables);
    }
    int32_t slots = 0;
    for (int t = 0; t < part.tables; ++t) {
      const int64_t table = part.first_table + t;
      slots += batch.hotness[table];
      tables.first_slot[t + 1] = slots;
      tables.mean[t] = batch.mean != nullptr && batch.mean[table] != 0;
      tables.variable[t] = batch.variable != nullptr && batch.variable[table] != 0;
    }
    const int64_t runs = (part.batch * slots + kRunSlots - 1) / kRunSlots;
    const FixedSlots<Id> fixed{part, all_slots, first_slot, slots, runs};
    first_slot += slots;
    return body(fixed, tables);
  });
}

// Lookup of bags, for dlrm_embedding_lookup (embedding_bags_lookup.cu).
cudaError_t lookup_bags(const DlrmEmbeddingBatch& batch, const void* rows, void* vectors,
                        cudaStream_t stream);

// The ids of a batch with bags, in device memory; the functions below are for all updates
// (embedding_bags_keys.cu).
struct BagKeys {
  uint32_t* keys;    // [rows, W]: row of each id, or kNoRow
  uint32_t* places;  // [rows, W]: place of its bag in the gradients; undefined where there is none
  float* factors;    // [B T]: on the gradient of each bag; null: all are 1
};

// The number of ids of a batch that an update takes, or -1 if it does not take the batch.
int64_t bag_ids_of(const DlrmEmbeddingBatch& batch);

// Whether the gradients of bags have factors.
bool has_bag_factors(const DlrmEmbeddingBatch& batch);

// Writes keys, places and factors. The batch is valid and has at least one id.
cudaError_t write_bag_keys(const DlrmEmbeddingBatch& batch, const BagKeys& keys,
                           cudaStream_t stream);

// SGD with atomics, for dlrm_embedding_update, and the device memory that it needs
// (embedding_bags_sgd.cu).
cudaError_t bag_sgd_workspace_bytes(const DlrmEmbeddingBatch& batch, size_t* bytes);
cudaError_t bag_sgd_with_atomics(const DlrmEmbeddingBatch& batch, const DlrmEmbeddingUpdate& update,
                                 const void* gradients, void* rows, void* workspace,
                                 size_t workspace_bytes, cudaStream_t stream);

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_BAGS_CUH_
