// Shared by the kernels of SGD with atomics (embedding_sgd*.cu): which tables take which kernel,
// and the bitmaps of repeated rows.
#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_SGD_CUH_
#define DLRM_OPS_EMBEDDING_EMBEDDING_SGD_CUH_

#include "embedding/embedding_rows.cuh"

namespace dlrm::gpu {

constexpr int kSgdThreads = 32 * kWarpsPerBlock;

// Some tables of a batch, for one launch. Their BatchPart counts them from 0.
struct SelectedTables {
  TableRanges ranges;
  int number[kTablesPerLaunch];  // in the batch
};

// Two bitmaps of 2^bits_log2 bits, indexed by a hash of the row. Two rows with the same hash count
// as repeated.
struct RowMarks {
  uint32_t* seen;
  uint32_t* repeated;
  int bits_log2;

  __device__ __forceinline__ uint64_t bit_of(int64_t row) const {
    // Fibonacci hashing: neighbouring rows get distant bits.
    return static_cast<uint64_t>(row) * 0x9e3779b97f4a7c15u >> (64 - bits_log2);
  }
  __device__ __forceinline__ void mark(int64_t row) const {
    const uint64_t bit = bit_of(row);
    const uint32_t mask = 1u << (bit % 32);
    if ((set_bits(seen + bit / 32, mask) & mask) != 0) set_bits(repeated + bit / 32, mask);
  }
  // Only in later launches than all marks.
  __device__ __forceinline__ bool is_repeated(int64_t row) const {
    const uint64_t bit = bit_of(row);
    return (load_read_only(repeated + bit / 32) >> (bit % 32) & 1) != 0;
  }
};

// Divides the tables into small ones, whose gradients are summed in shared memory, and large ones.
struct SgdPlan {
  static constexpr int64_t kMaxSmallDim = 32 * kWarpsPerBlock;  // a thread per column
  static constexpr int kMinBits = 12, kMaxBits = 27;

  size_t share = 0;  // bytes of shared memory for a small table's sums, so that two blocks fit
  int64_t large_tables = 0, small_tables = 0, most_small_rows = 0;
  int bits_log2 = kMinBits;

  bool is_small(const DlrmEmbeddingBatch& batch, int64_t table) const {
    const int64_t rows = batch.table_rows[table];
    return batch.dim <= kMaxSmallDim && rows <= batch.batch &&
           rows <= static_cast<int64_t>(share / sizeof(float)) / batch.dim;
  }

  cudaError_t plan(const DlrmEmbeddingBatch& batch) {
    if (!is_valid(batch)) return cudaErrorInvalidValue;
    size_t limit = 0;
    const cudaError_t status = shared_memory_limit(&limit);
    if (status != cudaSuccess) return status;
    // A multiprocessor has 1 KiB more than a block may use, and reserves 1 KiB per block.
    share = limit > 1024 ? (limit - 1024) / 2048 * 1024 : 0;
    for (int64_t t = 0; t < batch.tables; ++t) {
      const int64_t base = batch.base_rows[t], rows = batch.table_rows[t];
      if (base < 0 || rows < 0 || base > batch.total_rows - rows) return cudaErrorInvalidValue;
      if (!is_small(batch, t)) {
        ++large_tables;
        continue;
      }
      ++small_tables;
      if (rows > most_small_rows) most_small_rows = rows;
    }
    // With 16 bits per place, 94 % of the rows that are not repeated have a hash of their own.
    const int64_t bits = 16 * batch.batch * large_tables;
    while (bits_log2 < kMaxBits && int64_t{1} << bits_log2 < bits) ++bits_log2;
    return cudaSuccess;
  }

  size_t bitmap_bytes() const { return (size_t{1} << bits_log2) / 8; }
  size_t bytes() const { return large_tables > 0 ? 2 * bitmap_bytes() : 0; }
};

// Calls `body(part, tables)` for each group of at most kTablesPerLaunch tables that are small, or
// not.
template <typename Id, typename Body>
cudaError_t for_selected_tables(const DlrmEmbeddingBatch& batch, const SgdPlan& plan, bool small,
                                Body body) {
  SelectedTables tables = {};
  int count = 0;
  const auto flush = [&]() {
    const BatchPart<Id> part{static_cast<const Id*>(batch.ids),
                             batch.error,
                             batch.batch,
                             batch.dim,
                             batch.tables,
                             0,
                             count};
    count = 0;
    return part.tables > 0 ? body(part, tables) : cudaSuccess;
  };
  for (int64_t t = 0; t < batch.tables; ++t) {
    if (plan.is_small(batch, t) != small) continue;
    tables.ranges.base[count] = batch.base_rows[t];
    tables.ranges.rows[count] = batch.table_rows[t];
    tables.number[count] = static_cast<int>(t);
    if (++count < kTablesPerLaunch) continue;
    const cudaError_t status = flush();
    if (status != cudaSuccess) return status;
  }
  return flush();
}

// Adds factor * sum to columns of a row.
template <int kVec>
__device__ __forceinline__ void add_to_row(float* address, const Columns<kVec>& sum, float factor) {
  if constexpr (kVec == 4) {
    reduce_add(address, make_float4(factor * sum.value[0], factor * sum.value[1],
                                    factor * sum.value[2], factor * sum.value[3]));
  } else {
    reduce_add(address, factor * sum.value[0]);
  }
}

// Reorders the lanes so that equal rows are adjacent, otherwise in lane order. Returns the lane
// whose item moves to this lane.
__device__ __forceinline__ int group_equal_rows(int64_t row, int lane) {
  const unsigned peers = __match_any_sync(kFullWarp, static_cast<unsigned long long>(row));
  const int leader = __ffs(peers) - 1;
  if (__all_sync(kFullWarp, leader == lane)) return lane;
  const int key = leader * 32 + lane;
  int place = 0;
#pragma unroll 8
  for (int k = 0; k < 32; ++k) place += __shfl_sync(kFullWarp, key, k) < key;
  int source = 0;
#pragma unroll 8
  for (int k = 0; k < 32; ++k) {
    if (__shfl_sync(kFullWarp, place, k) == lane) source = k;
  }
  return source;
}

// Subtracts the gradients of 32 places from their rows: `factor` is minus the step. Places of one
// row are adjacent; `is_repeated` says whether another group has the row. A row of -1 is none, but
// its place is read, so that no branch separates the loads. kFullRow: one access of the warp covers
// a row (D = 32 kVec). kWeighted: gradients are multiplied by the weights of their places.
template <int kVec, bool kFullRow, bool kWeighted, typename R, typename T>
__device__ __forceinline__ void subtract_group(const T* __restrict__ gradients, R* rows,
                                               int64_t dim, float factor, int64_t row,
                                               int64_t place, bool is_repeated, float weight) {
  constexpr int kRowsAtOnce = 8;
  const int lane = threadIdx.x % 32;
  const int64_t next = __shfl_sync(kFullWarp, row, lane < 31 ? lane + 1 : lane);
  const bool is_end = lane == 31 || next != row;  // of the places of one row
  const bool is_written = is_end && row >= 0;
  const unsigned ends = __ballot_sync(kFullWarp, is_end);
  const unsigned written = __ballot_sync(kFullWarp, is_written);
  const unsigned alone = __ballot_sync(kFullWarp, is_written && !is_repeated);

  for (int64_t block = 0; block < dim; block += 32 * kVec) {
    const int64_t column = block + lane * kVec;
    const bool active = kFullRow || column < dim;
    Columns<kVec> sum = {};
#pragma unroll 1
    for (int k0 = 0; k0 < 32; k0 += kRowsAtOnce) {
      Columns<kVec> gradient[kRowsAtOnce], value[kRowsAtOnce];
#pragma unroll
      for (int k = 0; k < kRowsAtOnce; ++k) {
        const int64_t from = __shfl_sync(kFullWarp, place, k0 + k);
        gradient[k] = load_columns(gradients + from * dim + (active ? column : 0), Columns<kVec>{});
      }
#pragma unroll
      for (int k = 0; k < kRowsAtOnce; ++k) {
        const int64_t current = __shfl_sync(kFullWarp, row, k0 + k);
        value[k] =
            load_row<kVec>(rows + current * dim + column, active && (alone >> (k0 + k) & 1) != 0);
      }
#pragma unroll
      for (int k = 0; k < kRowsAtOnce; ++k) {
        const int64_t current = __shfl_sync(kFullWarp, row, k0 + k);
        if constexpr (kWeighted) {
          const float of_place = __shfl_sync(kFullWarp, weight, k0 + k);
#pragma unroll
          for (int v = 0; v < kVec; ++v) gradient[k].value[v] *= of_place;
        }
#pragma unroll
        for (int v = 0; v < kVec; ++v) sum.value[v] += gradient[k].value[v];
        if ((ends >> (k0 + k) & 1) == 0) continue;
        R* const address = rows + current * dim + column;
        if ((alone >> (k0 + k) & 1) != 0) {
#pragma unroll
          for (int v = 0; v < kVec; ++v) value[k].value[v] += factor * sum.value[v];
          store_row(address, value[k], active);
        } else if ((written >> (k0 + k) & 1) != 0 && active) {
          add_to_row(address, sum, factor);
        }
        sum = Columns<kVec>{};
      }
    }
  }
}

// Updates the small tables (embedding_sgd_small.cu).
cudaError_t sgd_of_small_tables(const DlrmEmbeddingBatch& batch, const SgdPlan& plan,
                                const DeviceStep& step, const void* gradients, void* rows,
                                cudaStream_t stream);

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_SGD_CUH_
