// Embedding update by SGD with atomics.
//
// A warp takes 32 consecutive samples of one table. Gradients of equal ids among them are summed in
// registers first, so that the row is written once: a table of ten rows, or a popular row of a
// large table, needs up to 32 times fewer atomics on one address. Warps with distinct ids skip the
// sum.
#include "embedding/embedding_rows.cuh"

namespace dlrm::gpu {
namespace {

constexpr int kRowsAtOnce = 8;

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

// kFullRow: one access of the warp covers a row (D = 32 kVec).
template <typename R, typename T, typename Id, int kVec, bool kFullRow>
__global__ void __launch_bounds__(32 * kWarpsPerBlock, kFullRow ? 3 : 2)
    sgd_kernel(BatchPart<Id> part, const __grid_constant__ TableRanges ranges,
               const T* __restrict__ gradients, R* __restrict__ rows, DeviceStep device_step) {
  const RowStep scalars = device_step.read();
  const float step = scalars.learning_rate * scalars.scale;
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  const int64_t groups = (part.batch + 31) / 32 * part.tables;
  const int64_t dim = kFullRow ? 32 * kVec : part.dim;
  int64_t group = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  for (; group < groups; group += warps) {
    const int table = static_cast<int>(group % part.tables);
    const int64_t first = group / part.tables * 32;
    int64_t row = -1;
    if (first + lane < part.batch) row = checked_row(part, ranges, first + lane, table);
    const int source = group_equal_rows(row, lane);
    row = __shfl_sync(kFullWarp, row, source);
    // Places past the batch or with bad ids are read, so that no branch separates the loads, but
    // belong to no row.
    const int64_t sample = first + source < part.batch ? first + source : part.batch - 1;

    for (int64_t block = 0; block < dim; block += 32 * kVec) {
      const int64_t column = block + lane * kVec;
      const bool active = kFullRow || column < dim;
      Columns<kVec> sum = {};
#pragma unroll 1
      for (int k0 = 0; k0 < 32; k0 += kRowsAtOnce) {
        Columns<kVec> gradient[kRowsAtOnce];
#pragma unroll
        for (int k = 0; k < kRowsAtOnce; ++k) {
          const int64_t place =
              __shfl_sync(kFullWarp, sample, k0 + k) * part.all_tables + part.first_table + table;
          gradient[k] =
              load_columns(gradients + place * dim + (active ? column : 0), Columns<kVec>{});
        }
#pragma unroll
        for (int k = 0; k < kRowsAtOnce; ++k) {
          const int64_t current = __shfl_sync(kFullWarp, row, k0 + k);
          const int64_t next = __shfl_sync(kFullWarp, row, k0 + k + 1);
#pragma unroll
          for (int v = 0; v < kVec; ++v) sum.value[v] += gradient[k].value[v];
          if (k0 + k == 31 || next != current) {
            if (current >= 0 && active && scalars.scale != 0.0f)
              add_to_row(rows + current * dim + column, sum, -step);
            sum = Columns<kVec>{};
          }
        }
      }
    }
  }
}

template <typename R, typename T, typename Id, int kVec>
cudaError_t sgd(const DlrmEmbeddingBatch& batch, const T* gradients, R* rows,
                const DeviceStep& step, cudaStream_t stream) {
  return for_table_parts<Id>(batch, [&](const BatchPart<Id>& part, const TableRanges& ranges) {
    const int64_t groups = (part.batch + 31) / 32 * part.tables;
    const int64_t blocks = (groups + kWarpsPerBlock - 1) / kWarpsPerBlock;
    const auto kernel = batch.dim == 32 * kVec ? sgd_kernel<R, T, Id, kVec, true>
                                               : sgd_kernel<R, T, Id, kVec, false>;
    return launch(kernel, blocks, 32 * kWarpsPerBlock, 0, stream, part, ranges, gradients, rows,
                  step);
  });
}

}  // namespace

cudaError_t sgd_with_atomics(const DlrmEmbeddingBatch& batch, const DlrmEmbeddingUpdate& update,
                             const void* gradients, void* rows, cudaStream_t stream) {
  if (!is_valid(batch)) return cudaErrorInvalidValue;
  return with_types(batch, gradients, rows, [&](auto element, auto id, auto columns, auto row) {
    using T = decltype(element);
    using R = decltype(row);
    return sgd<R, T, decltype(id), sizeof(columns) / sizeof(float)>(
        batch, static_cast<const T*>(gradients), static_cast<R*>(rows), DeviceStep(update), stream);
  });
}

}  // namespace dlrm::gpu
