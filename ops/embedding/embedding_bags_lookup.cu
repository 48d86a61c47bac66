// Lookup of bags: the rows of each bag are added and written once.
//
// A warp takes a run of bags (embedding_bags.cuh). Of each 32 slots every lane checks one id, then
// rows are loaded eight at a time, whichever bags they belong to, and added in order; the sum is
// written where a bag ends. So a warp has eight independent rows in flight for bags of any length,
// and no lane waits for another bag.
#include "embedding/embedding_bags.cuh"

namespace dlrm::gpu {
namespace {

constexpr int kRowsAtOnce = 8;

__device__ __forceinline__ Columns<1> load_if(const float* address, bool active, Columns<1>) {
  return {{load_read_only(address, active)}};
}
__device__ __forceinline__ Columns<4> load_if(const float* address, bool active, Columns<4>) {
  const float4 v = load_read_only(reinterpret_cast<const float4*>(address), active);
  return {{v.x, v.y, v.z, v.w}};
}

// The sum of the bag that a warp has reached, in columns of this lane.
template <int kVec>
struct Pool {
  Columns<kVec> sum = {};
  int ids = 0;

  __device__ __forceinline__ void add(const Columns<kVec>& row, int count) {
#pragma unroll
    for (int v = 0; v < kVec; ++v) sum.value[v] += row.value[v];
    ids += count;
  }
  __device__ __forceinline__ Columns<kVec> take(bool mean) {
    Columns<kVec> result = sum;
    if (mean && ids > 1) {
      const float factor = 1.0f / static_cast<float>(ids);
#pragma unroll
      for (int v = 0; v < kVec; ++v) result.value[v] *= factor;
    }
    *this = Pool();
    return result;
  }
};

template <typename R, typename T, int kVec, typename Slots>
__global__ void __launch_bounds__(32 * kWarpsPerBlock, 3)
    bag_lookup_kernel(Slots slots, const __grid_constant__ BagTables tables, int64_t dim,
                      const R* __restrict__ rows, T* __restrict__ vectors) {
  const BagTables& shared = share(tables);
  const int lane = threadIdx.x % 32;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarpsPerBlock;
  int64_t number = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + threadIdx.x / 32;
  for (; number < slots.runs; number += warps) {
    const auto run = slots.run(shared, number);
    const unsigned empty = slots.empty_bags(run);
    for (int64_t block = 0; block < dim; block += 32 * kVec) {
      const int64_t column = block + lane * kVec;
      const bool active = column < dim;
      Pool<kVec> pool;
      for (int first = 0; first < run.length; first += 32) {
        const Slot slot = slots.load(shared, run, first);
        const unsigned has_id = __ballot_sync(kFullWarp, slot.has_id);
        const unsigned has_row = __ballot_sync(kFullWarp, slot.row >= 0);
        const unsigned ends = __ballot_sync(kFullWarp, slot.ends_bag);
        const unsigned means = __ballot_sync(kFullWarp, slot.is_pooled_by_mean);
#pragma unroll 1
        for (int k0 = 0; k0 < 32; k0 += kRowsAtOnce) {
          if (((has_id | ends) >> k0 & ((1u << kRowsAtOnce) - 1)) == 0) continue;
          Columns<kVec> row[kRowsAtOnce];
#pragma unroll
          for (int k = 0; k < kRowsAtOnce; ++k) {
            const int64_t source = __shfl_sync(kFullWarp, slot.row, k0 + k);
            const bool is_read = active && (has_row >> (k0 + k) & 1) != 0;
            row[k] =
                load_if(rows + (is_read ? source * dim + column : 0), is_read, Columns<kVec>{});
          }
#pragma unroll
          for (int k = 0; k < kRowsAtOnce; ++k) {
            pool.add(row[k], static_cast<int>(has_id >> (k0 + k) & 1));
            if ((ends >> (k0 + k) & 1) == 0) continue;
            const int64_t place = __shfl_sync(kFullWarp, slot.place, k0 + k);
            const Columns<kVec> pooled = pool.take((means >> (k0 + k) & 1) != 0);
            if (active) store_columns(vectors + place * dim + column, pooled);
          }
        }
      }
      // Bags without a slot are in none of the above.
      for (unsigned left = empty; left != 0; left &= left - 1) {
        const int64_t place = run.bag + __ffs(left) - 1;
        if (active) store_columns(vectors + place * dim + column, Columns<kVec>{});
      }
    }
  }
}

}  // namespace

cudaError_t lookup_bags(const DlrmEmbeddingBatch& batch, const void* rows, void* vectors,
                        cudaStream_t stream) {
  if (!is_valid_with_bags(batch)) return cudaErrorInvalidValue;
  return with_types(batch, vectors, rows, [&](auto element, auto id, auto columns, auto row) {
    using T = decltype(element);
    using R = decltype(row);
    constexpr int kVec = sizeof(columns) / sizeof(float);
    return for_bag_parts<decltype(id)>(batch, [&](const auto& slots, const BagTables& tables) {
      using Slots = std::decay_t<decltype(slots)>;
      return launch_cached(bag_lookup_kernel<R, T, kVec, Slots>,
                           (slots.runs + kWarpsPerBlock - 1) / kWarpsPerBlock, 32 * kWarpsPerBlock,
                           sizeof(BagTables), stream, slots, tables, batch.dim,
                           static_cast<const R*>(rows), static_cast<T*>(vectors));
    });
  });
}

}  // namespace dlrm::gpu
