// Fused embedding lookup, and the record of bad ids.
//
// A warp takes 32 consecutive (sample, table) places: each lane checks one id, then rows are copied
// eight at a time, so that each warp has eight independent 512-byte reads in flight.
#include <cstring>

#include "embedding/embedding_bags.cuh"

namespace dlrm::gpu {
namespace {

constexpr int kRowsAtOnce = 8;

// kFullRow: one access of the warp covers a row (D = 32 kVec), and the table is not empty.
template <typename R, typename T, typename Id, int kVec, bool kFullRow>
__global__ void __launch_bounds__(32 * kWarpsPerBlock, 3)
    lookup_kernel(BatchPart<Id> part, const __grid_constant__ TableRanges ranges,
                  const R* __restrict__ rows, T* __restrict__ vectors) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  const int64_t places = part.batch * part.tables;
  int64_t first = (static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32) * 32;
  for (; first < places; first += warps * 32) {
    const int count = static_cast<int>(places - first < 32 ? places - first : 32);
    // Lanes past the end repeat the last place: no branch separates loads and stores.
    const int64_t lane_place = first + (lane < count ? lane : count - 1);
    const int64_t sample = lane_place / part.tables;
    const int table = static_cast<int>(lane_place - sample * part.tables);
    const int64_t row = checked_row(part, ranges, sample, table);
    const int64_t target = sample * part.all_tables + part.first_table + table;
    if constexpr (kFullRow) {
      const unsigned good = __ballot_sync(kFullWarp, row >= 0);
      const int column = lane * kVec;
#pragma unroll 1
      for (int k0 = 0; k0 < count; k0 += kRowsAtOnce) {
        Columns<kVec> columns[kRowsAtOnce];
#pragma unroll
        for (int k = 0; k < kRowsAtOnce; ++k) {
          // A bad id reads row 0, unused: a branch here would separate the loads.
          const int64_t source = __shfl_sync(kFullWarp, row < 0 ? 0 : row, k0 + k);
          columns[k] = load_columns(rows + source * (32 * kVec) + column, Columns<kVec>{});
        }
#pragma unroll
        for (int k = 0; k < kRowsAtOnce; ++k) {
          const int64_t place = __shfl_sync(kFullWarp, target, k0 + k);
          if ((good >> (k0 + k) & 1u) == 0) columns[k] = Columns<kVec>{};
          store_columns(vectors + place * (32 * kVec) + column, columns[k]);
        }
      }
    } else {
      // Lanes walk the rows' pieces of kVec columns: one access covers several short rows.
      const int64_t pieces = part.dim / kVec, total = pieces * count;
      for (int64_t piece = lane; piece - lane < total; piece += 32) {
        const int k = static_cast<int>(piece / pieces);
        const int64_t source = __shfl_sync(kFullWarp, row, k % 32);
        const int64_t place = __shfl_sync(kFullWarp, target, k % 32);
        if (piece >= total) continue;
        const int64_t column = (piece - k * pieces) * kVec;
        const Columns<kVec> columns =
            source < 0 ? Columns<kVec>{}
                       : load_columns(rows + source * part.dim + column, Columns<kVec>{});
        store_columns(vectors + place * part.dim + column, columns);
      }
    }
  }
}

template <typename R, typename T, typename Id, int kVec>
cudaError_t lookup(const DlrmEmbeddingBatch& batch, const R* rows, T* vectors,
                   cudaStream_t stream) {
  return for_table_parts<Id>(batch, [&](const BatchPart<Id>& part, const TableRanges& ranges) {
    const int64_t places = part.batch * part.tables;
    const int64_t blocks = (places + 32 * kWarpsPerBlock - 1) / (32 * kWarpsPerBlock);
    const auto kernel = batch.dim == 32 * kVec && batch.total_rows > 0
                            ? lookup_kernel<R, T, Id, kVec, true>
                            : lookup_kernel<R, T, Id, kVec, false>;
    return launch(kernel, blocks, 32 * kWarpsPerBlock, 0, stream, part, ranges, rows, vectors);
  });
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" {

cudaError_t dlrm_id_error_create(DlrmIdError** error) {
  void* memory = nullptr;
  const cudaError_t status =
      cudaHostAlloc(&memory, sizeof(DlrmIdError), cudaHostAllocPortable | cudaHostAllocMapped);
  if (status != cudaSuccess) return status;
  std::memset(memory, 0, sizeof(DlrmIdError));
  *error = static_cast<DlrmIdError*>(memory);
  return cudaSuccess;
}

int dlrm_id_error_take(DlrmIdError* error, DlrmIdError* found) {
  if (__atomic_load_n(&error->state, __ATOMIC_ACQUIRE) != 2) return 0;
  *found = *error;
  __atomic_store_n(&error->state, 0, __ATOMIC_RELEASE);
  return 1;
}

cudaError_t dlrm_embedding_lookup(const DlrmEmbeddingBatch* batch, const void* rows, void* vectors,
                                  cudaStream_t stream) {
  if (!dlrm::gpu::is_valid(*batch)) return cudaErrorInvalidValue;
  if (dlrm::gpu::has_bags(*batch)) return dlrm::gpu::lookup_bags(*batch, rows, vectors, stream);
  return dlrm::gpu::with_types(
      *batch, vectors, rows, [&](auto element, auto id, auto columns, auto row) {
        using T = decltype(element);
        using R = decltype(row);
        return dlrm::gpu::lookup<R, T, decltype(id), sizeof(columns) / sizeof(float)>(
            *batch, static_cast<const R*>(rows), static_cast<T*>(vectors), stream);
      });
}

}  // extern "C"
