// Deterministic embedding updates: the places of a batch's ids are sorted by row (stable), then the
// kernels of embedding_sorted.cuh update each row.
#include "embedding/embedding_sorted.cuh"

#include "embedding/embedding_bags.cuh"
#include "embedding/radix_sort.cuh"

namespace dlrm::gpu {
namespace {

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

constexpr size_t kAlignment = 256;

size_t aligned_size(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int bits_of(uint32_t value) {
  int bits = 1;
  while (bits < 32 && value >> bits != 0) ++bits;
  return bits;
}

// Device memory of an update: keys, places, both sorted, factors of bags, then temporary memory of
// the sort.
struct Workspace {
  size_t array = 0, factors = 0, sort = 0;
  int count = 0, key_bits = 0;

  cudaError_t plan(const DlrmEmbeddingBatch& batch) {
    if (!is_valid(batch) || batch.total_rows >= int64_t{0xffffffff}) return cudaErrorInvalidValue;
    if (batch.tables > 0 && batch.batch > 0x7fffffff / batch.tables) return cudaErrorInvalidValue;
    const int64_t ids = has_bags(batch) ? bag_ids_of(batch) : batch.batch * batch.tables;
    if (ids < 0) return cudaErrorInvalidValue;
    count = static_cast<int>(ids);
    if (has_bag_factors(batch)) {
      factors = aligned_size(static_cast<size_t>(batch.batch * batch.tables) * sizeof(float));
    }
    key_bits = bits_of(static_cast<uint32_t>(batch.total_rows));
    array = aligned_size(static_cast<size_t>(count) * sizeof(uint32_t));
    const uint32_t* in = nullptr;
    uint32_t* out = nullptr;
    return sort_pairs(nullptr, sort, in, out, in, out, count, key_bits, nullptr);
  }
  size_t bytes() const { return 4 * array + factors + sort; }
};

template <typename Id>
cudaError_t write_keys(const DlrmEmbeddingBatch& batch, uint32_t invalid_row, uint32_t* keys,
                       uint32_t* places, cudaStream_t stream) {
  return for_table_parts<Id>(batch, [&](const BatchPart<Id>& part, const TableRanges& ranges) {
    const int64_t blocks = (part.batch * part.tables + 255) / 256;
    return launch(key_kernel<Id>, blocks, 256, 0, stream, part, ranges, invalid_row, keys, places);
  });
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
  Workspace plan;
  cudaError_t status = plan.plan(batch);
  if (status != cudaSuccess) return status;
  if (request.optimizer < 0 || request.optimizer >= RowRules::kCount) return cudaErrorInvalidValue;
  if (plan.count == 0) return cudaSuccess;
  if (workspace_bytes < plan.bytes() || !aligned(workspace, kAlignment)) {
    return cudaErrorInvalidValue;
  }
  auto* memory = static_cast<unsigned char*>(workspace);
  auto* keys = reinterpret_cast<uint32_t*>(memory);
  auto* places = reinterpret_cast<uint32_t*>(memory + plan.array);
  auto* sorted_keys = reinterpret_cast<uint32_t*>(memory + 2 * plan.array);
  auto* sorted_places = reinterpret_cast<uint32_t*>(memory + 3 * plan.array);
  auto* factors = plan.factors > 0 ? reinterpret_cast<float*>(memory + 4 * plan.array) : nullptr;
  const uint32_t invalid_row = has_bags(batch) ? kNoRow : static_cast<uint32_t>(batch.total_rows);

  // Calls nothing, but refuses unknown types before the first kernel runs.
  status = with_types(batch, gradients, rows, [](auto, auto, auto, auto) { return cudaSuccess; });
  if (status != cudaSuccess) return status;
  if (has_bags(batch)) {
    status = write_bag_keys(batch, {keys, places, factors}, stream);
  } else if (batch.id_type == DLRM_INT32) {
    status = write_keys<int32_t>(batch, invalid_row, keys, places, stream);
  } else {
    status = write_keys<int64_t>(batch, invalid_row, keys, places, stream);
  }
  if (status != cudaSuccess) return status;
  // kNoRow has all of the bits that are sorted, which no row has, so it is sorted to the end, too.
  status = sort_pairs(memory + 4 * plan.array + plan.factors, plan.sort, keys, sorted_keys, places,
                      sorted_places, plan.count, plan.key_bits, stream);
  if (status != cudaSuccess) return status;
  // The sort has read `keys`.
  const SortedPlaces sorted{keys, sorted_keys, sorted_places, factors, plan.count, invalid_row};
  return factors != nullptr ? apply_sorted_weighted(batch, request, sorted, gradients, rows, stream)
                            : apply_sorted<false>(batch, request, sorted, gradients, rows, stream);
}

}  // namespace dlrm::gpu
