// Embedding update by SGD with atomics.
//
// Tables whose sums fit into a block's share of shared memory take embedding_sgd_small.cu, all
// others this file. Here a warp takes 32 consecutive samples of one table. Gradients of equal ids
// among them are summed in registers first, so that the row is written once: a popular row needs up
// to 32 times fewer atomics on one address. Warps with distinct ids skip the sum.
//
// A row that occurs in only one of these groups needs no atomics: it is loaded, changed and stored.
// A first kernel marks the others in two bitmaps of hashed rows: each group sets the bits of its
// rows in the first bitmap, and, where a bit was set already, also in the second. Only rows with a
// bit in the second take atomics. All groups of a row see the same bit, so that a row is never
// written both ways; a row whose hash equals another's only costs the atomics.
#include "embedding/embedding_sgd.cuh"

namespace dlrm::gpu {
namespace {

template <typename Id>
__global__ void __launch_bounds__(kSgdThreads)
    mark_kernel(BatchPart<Id> part, const __grid_constant__ SelectedTables tables, RowMarks marks) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  const int64_t groups = (part.batch + 31) / 32 * part.tables;
  int64_t group = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  for (; group < groups; group += warps) {
    const int table = static_cast<int>(group % part.tables);
    const int64_t sample = group / part.tables * 32 + lane;
    int64_t row = -1;
    if (sample < part.batch) {
      row = checked_row(part, tables.ranges, sample, table, tables.number[table]);
    }
    const unsigned peers = __match_any_sync(kFullWarp, static_cast<unsigned long long>(row));
    if (row >= 0 && __ffs(peers) - 1 == lane) marks.mark(row);
  }
}

// kFullRow: one access of the warp covers a row (D = 32 kVec).
template <typename R, typename T, typename Id, int kVec, bool kFullRow>
__global__ void __launch_bounds__(kSgdThreads, 2)
    sgd_kernel(BatchPart<Id> part, const __grid_constant__ SelectedTables tables, RowMarks marks,
               const T* __restrict__ gradients, R* rows, DeviceStep device_step) {
  const RowStep step = device_step.read();
  if (step.scale == 0.0f) return;
  const float factor = -(step.learning_rate * step.scale);
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  const int64_t groups = (part.batch + 31) / 32 * part.tables;
  const int64_t dim = kFullRow ? 32 * kVec : part.dim;
  int64_t group = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  // Ids are loaded one group ahead. Past the batch the last one is loaded, but not used.
  const auto load_id = [&](int64_t of_group) {
    if (of_group >= groups) return Id{0};
    const int table = static_cast<int>(of_group % part.tables);
    const int64_t sample = of_group / part.tables * 32 + lane;
    return load_in_order(part.ids +
                         (sample < part.batch ? sample : part.batch - 1) * part.all_tables +
                         tables.number[table]);
  };
  Id next_id = load_id(group);
  for (; group < groups; group += warps) {
    const int table = static_cast<int>(group % part.tables);
    const int number = tables.number[table];
    const int64_t first = group / part.tables * 32;
    int64_t row = -1;
    if (first + lane < part.batch) {
      row = row_of_id(part, tables.ranges, next_id, first + lane, table, number);
    }
    bool is_repeated = row >= 0 && marks.is_repeated(row);
    next_id = load_id(group + warps);
    const int source = group_equal_rows(row, lane);
    row = __shfl_sync(kFullWarp, row, source);
    is_repeated = __shfl_sync(kFullWarp, static_cast<int>(is_repeated), source) != 0;
    // Places past the batch or with bad ids are read, so that no branch separates the loads, but
    // belong to no row.
    const int64_t sample = first + source < part.batch ? first + source : part.batch - 1;
    const int64_t place = sample * part.all_tables + number;
    subtract_group<kVec, kFullRow, false>(gradients, rows, dim, factor, row, place, is_repeated,
                                          1.0f);
  }
}

// Marks the rows of the large tables that several groups of 32 samples have.
template <typename Id>
cudaError_t mark(const DlrmEmbeddingBatch& batch, const SgdPlan& plan, const RowMarks& marks,
                 cudaStream_t stream) {
  const cudaError_t status = clear_memory(marks.seen, plan.bytes(), stream);
  if (status != cudaSuccess) return status;
  return for_selected_tables<Id>(
      batch, plan, false, [&](const BatchPart<Id>& part, const SelectedTables& tables) {
        const int64_t groups = (part.batch + 31) / 32 * part.tables;
        return launch(mark_kernel<Id>, (groups + kWarpsPerBlock - 1) / kWarpsPerBlock, kSgdThreads,
                      0, stream, part, tables, marks);
      });
}

cudaError_t sgd_of_large_tables(const DlrmEmbeddingBatch& batch, const SgdPlan& plan,
                                const DeviceStep& step, const RowMarks& marks,
                                const void* gradients, void* rows, cudaStream_t stream) {
  return with_types(batch, gradients, rows, [&](auto element, auto id, auto columns, auto row) {
    using T = decltype(element);
    using Id = decltype(id);
    using R = decltype(row);
    constexpr int kVec = sizeof(columns) / sizeof(float);
    const cudaError_t status = mark<Id>(batch, plan, marks, stream);
    if (status != cudaSuccess) return status;
    const auto kernel = batch.dim == 32 * kVec ? sgd_kernel<R, T, Id, kVec, true>
                                               : sgd_kernel<R, T, Id, kVec, false>;
    return for_selected_tables<Id>(
        batch, plan, false, [&](const BatchPart<Id>& part, const SelectedTables& tables) {
          const int64_t groups = (part.batch + 31) / 32 * part.tables;
          return launch(kernel, (groups + kWarpsPerBlock - 1) / kWarpsPerBlock, kSgdThreads, 0,
                        stream, part, tables, marks, static_cast<const T*>(gradients),
                        static_cast<R*>(rows), step);
        });
  });
}

}  // namespace

cudaError_t sgd_workspace_bytes(const DlrmEmbeddingBatch& batch, size_t* bytes) {
  SgdPlan plan;
  const cudaError_t status = plan.plan(batch);
  if (status == cudaSuccess) *bytes = plan.bytes();
  return status;
}

cudaError_t sgd_with_atomics(const DlrmEmbeddingBatch& batch, const DlrmEmbeddingUpdate& update,
                             const void* gradients, void* rows, void* workspace,
                             size_t workspace_bytes, cudaStream_t stream) {
  SgdPlan plan;
  cudaError_t status = plan.plan(batch);
  if (status != cudaSuccess) return status;
  if (workspace_bytes < plan.bytes() || !aligned(workspace, sizeof(uint32_t))) {
    return cudaErrorInvalidValue;
  }
  const DeviceStep step(update);
  if (plan.large_tables > 0) {
    auto* const seen = static_cast<uint32_t*>(workspace);
    const RowMarks marks{seen, seen + plan.bitmap_bytes() / sizeof(uint32_t), plan.bits_log2};
    status = sgd_of_large_tables(batch, plan, step, marks, gradients, rows, stream);
    if (status != cudaSuccess) return status;
  }
  return sgd_of_small_tables(batch, plan, step, gradients, rows, stream);
}

}  // namespace dlrm::gpu
