// SGD with atomics for bags. Like embedding_sgd.cu, but ids have been turned into rows and places
// of gradients (embedding_bags_keys.cu), and small tables have no kernel of their own: a group of
// 32 ids adds the gradients of its popular rows, and with several ids per sample the other rows
// take most of the time.
//
// A group is 32 consecutive samples of one column of ids [B, W], or 32 consecutive ids of bags of
// any length.
#include "embedding/embedding_bags.cuh"
#include "embedding/embedding_sgd.cuh"

namespace dlrm::gpu {
namespace {

// Ids [rows, slots] as rows and places.
struct KeyedIds {
  const uint32_t* keys;
  const uint32_t* places;
  const float* factors;  // or null
  int64_t rows;
  int64_t slots;

  __host__ __device__ __forceinline__ int64_t groups() const { return (rows + 31) / 32 * slots; }
  // Index of this lane's id; past the end the last one.
  __device__ __forceinline__ int64_t index(int64_t group) const {
    const int64_t row = group / slots * 32 + threadIdx.x % 32;
    return (row < rows ? row : rows - 1) * slots + group % slots;
  }
  __device__ __forceinline__ bool has_lane(int64_t group) const {
    return group / slots * 32 + threadIdx.x % 32 < rows;
  }
};

__device__ __forceinline__ int64_t row_of_key(uint32_t key, bool is_used) {
  return is_used && key != kNoRow ? static_cast<int64_t>(key) : -1;
}

__global__ void __launch_bounds__(kSgdThreads) mark_keys_kernel(KeyedIds ids, RowMarks marks) {
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  const int64_t groups = ids.groups();
  int64_t group = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  for (; group < groups; group += warps) {
    const int64_t row =
        row_of_key(load_read_only(ids.keys + ids.index(group)), ids.has_lane(group));
    const unsigned peers = __match_any_sync(kFullWarp, static_cast<unsigned long long>(row));
    if (row >= 0 && __ffs(peers) - 1 == lane) marks.mark(row);
  }
}

template <typename R, typename T, int kVec, bool kFullRow>
__global__ void __launch_bounds__(kSgdThreads, 2)
    bag_sgd_kernel(KeyedIds ids, RowMarks marks, int64_t any_dim, const T* __restrict__ gradients,
                   R* rows, DeviceStep device_step) {
  const RowStep step = device_step.read();
  if (step.scale == 0.0f) return;
  const float factor = -(step.learning_rate * step.scale);
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  const int64_t groups = ids.groups();
  const int64_t dim = kFullRow ? 32 * kVec : any_dim;
  int64_t group = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  for (; group < groups; group += warps) {
    const int64_t index = ids.index(group);
    int64_t row = row_of_key(load_read_only(ids.keys + index), ids.has_lane(group));
    // An id without a row may have no place: it reads the first gradient.
    int64_t place = row < 0 ? 0 : static_cast<int64_t>(load_read_only(ids.places + index));
    bool is_repeated = row >= 0 && marks.is_repeated(row);
    float weight = ids.factors == nullptr ? 1.0f : load_read_only(ids.factors + place);
    const int source = group_equal_rows(row, lane);
    row = __shfl_sync(kFullWarp, row, source);
    place = __shfl_sync(kFullWarp, place, source);
    weight = __shfl_sync(kFullWarp, weight, source);
    is_repeated = __shfl_sync(kFullWarp, static_cast<int>(is_repeated), source) != 0;
    subtract_group<kVec, kFullRow, true>(gradients, rows, dim, factor, row, place, is_repeated,
                                         weight);
  }
}

// Device memory: keys, places, factors, the two bitmaps.
struct BagSgdPlan {
  static constexpr size_t kAlignment = 16;
  int64_t ids = 0;
  size_t array = 0, factors = 0, bitmap = 0;
  int bits_log2 = SgdPlan::kMinBits;

  cudaError_t plan(const DlrmEmbeddingBatch& batch) {
    ids = bag_ids_of(batch);
    if (ids < 0) return cudaErrorInvalidValue;
    array = padded(static_cast<size_t>(ids) * sizeof(uint32_t));
    if (has_bag_factors(batch)) {
      factors = padded(static_cast<size_t>(batch.batch * batch.tables) * sizeof(float));
    }
    while (bits_log2 < SgdPlan::kMaxBits && int64_t{1} << bits_log2 < 16 * ids) ++bits_log2;
    bitmap = (size_t{1} << bits_log2) / 8;
    return cudaSuccess;
  }
  static size_t padded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
  size_t bytes() const { return ids > 0 ? 2 * array + factors + 2 * bitmap : 0; }
};

}  // namespace

cudaError_t bag_sgd_workspace_bytes(const DlrmEmbeddingBatch& batch, size_t* bytes) {
  BagSgdPlan plan;
  const cudaError_t status = plan.plan(batch);
  if (status == cudaSuccess) *bytes = plan.bytes();
  return status;
}

cudaError_t bag_sgd_with_atomics(const DlrmEmbeddingBatch& batch, const DlrmEmbeddingUpdate& update,
                                 const void* gradients, void* rows, void* workspace,
                                 size_t workspace_bytes, cudaStream_t stream) {
  BagSgdPlan plan;
  cudaError_t status = plan.plan(batch);
  if (status != cudaSuccess || plan.ids == 0) return status;
  if (workspace_bytes < plan.bytes() || !aligned(workspace, BagSgdPlan::kAlignment)) {
    return cudaErrorInvalidValue;
  }
  auto* const memory = static_cast<unsigned char*>(workspace);
  auto* const keys = reinterpret_cast<uint32_t*>(memory);
  auto* const places = reinterpret_cast<uint32_t*>(memory + plan.array);
  auto* const factors =
      plan.factors > 0 ? reinterpret_cast<float*>(memory + 2 * plan.array) : nullptr;
  auto* const seen = reinterpret_cast<uint32_t*>(memory + 2 * plan.array + plan.factors);
  const RowMarks marks{seen, seen + plan.bitmap / sizeof(uint32_t), plan.bits_log2};
  const KeyedIds ids{keys, places, factors, id_rows_of(batch), slots_of(batch)};
  const int64_t blocks = (ids.groups() + kWarpsPerBlock - 1) / kWarpsPerBlock;
  return with_types(batch, gradients, rows, [&](auto element, auto, auto columns, auto row) {
    using T = decltype(element);
    using R = decltype(row);
    constexpr int kVec = sizeof(columns) / sizeof(float);
    status = write_bag_keys(batch, {keys, places, factors}, stream);
    if (status != cudaSuccess) return status;
    status = clear_memory(marks.seen, 2 * plan.bitmap, stream);
    if (status != cudaSuccess) return status;
    status = launch(mark_keys_kernel, blocks, kSgdThreads, 0, stream, ids, marks);
    if (status != cudaSuccess) return status;
    const auto kernel = batch.dim == 32 * kVec ? bag_sgd_kernel<R, T, kVec, true>
                                               : bag_sgd_kernel<R, T, kVec, false>;
    return launch(kernel, blocks, kSgdThreads, 0, stream, ids, marks, batch.dim,
                  static_cast<const T*>(gradients), static_cast<R*>(rows), DeviceStep(update));
  });
}

}  // namespace dlrm::gpu
