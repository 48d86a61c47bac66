// SGD with atomics on small tables: those whose sums fit a block's share of shared memory.
//
// A block takes a slice of the samples of one table. Each thread owns one column: it adds the
// gradients of the slice to sums in shared memory, without atomics. Warps of different columns
// share a sample; where the sums fit several times, further warps take other samples, with sums of
// their own. At the end of a slice the block adds all rows whose sum is not zero to the table,
// once, with atomics. So popular rows of small tables cost reads of their gradients, and hardly any
// atomics.
//
// Gradients of the next 32 samples are loaded into registers while the current 32 are added. A sum
// stays in a register while consecutive samples have the same row.
#include "embedding/embedding_sgd.cuh"

namespace dlrm::gpu {
namespace {

// A slice has at least kMinSlice samples, and there are at most about kMostSlices slices.
constexpr int64_t kMinSlice = 256, kMostSlices = 512;

struct Slices {
  int64_t samples;  // of a slice, a multiple of 32
  int floats;       // shared memory for sums
  bool wide;        // rows can be accessed by four columns
};

// The row (in its table, -1 for none) of this lane's sample, and this thread's column of 32
// samples.
template <typename T>
struct Samples {
  int row;
  T gradient[32];
};

template <typename T, typename Id>
__device__ __forceinline__ Samples<T> load_samples(const BatchPart<Id>& part,
                                                   const SelectedTables& tables, int table,
                                                   const T* gradients, int column, int64_t first,
                                                   int64_t end) {
  Samples<T> samples;
  samples.row = -1;
  const int number = tables.number[table];
  const int64_t stride = part.all_tables * part.dim;
  const int left = end - first < 32 ? static_cast<int>(end - first) : 32;
  const T* address = gradients + first * stride + number * part.dim + column;
#pragma unroll
  for (int k = 0; k < 32; ++k) {
    samples.gradient[k] = load_in_order(address);
    // Past the end the last sample is read again: from the cache, without a branch.
    if (k + 1 < left) address += stride;
  }
  const int64_t own = first + threadIdx.x % 32;
  if (own < end) {
    const int64_t row = checked_row(part, tables.ranges, own, table, number);
    if (row >= 0) samples.row = static_cast<int>(row - tables.ranges.base[table]);
  }
  return samples;
}

// Adds the gradients of samples [first, end), of which this warp takes 32 of every `stride`.
template <typename T, typename Id>
__device__ __forceinline__ void add_samples(const BatchPart<Id>& part, const SelectedTables& tables,
                                            int table, const T* gradients, int column,
                                            int64_t first, int64_t end, int64_t stride,
                                            float* sums) {
  if (first >= end) return;
  const int dim = static_cast<int>(part.dim);
  const bool active = column < dim;
  const int readable = active ? column : 0;
  float sum = 0.0f;
  int row = -1;
  auto now = load_samples(part, tables, table, gradients, readable, first, end);
  for (; first < end; first += stride) {
    auto next = now;
    if (first + stride < end) {
      next = load_samples(part, tables, table, gradients, readable, first + stride, end);
    }
#pragma unroll
    for (int k = 0; k < 32; ++k) {
      const int current = __shfl_sync(kFullWarp, now.row, k);
      if (current != row) {
        if (row >= 0 && active) sums[row * dim + column] += sum;
        sum = 0.0f;
        row = current;
      }
      sum += to_float(now.gradient[k]);
    }
    now = next;
  }
  if (row >= 0 && active) sums[row * dim + column] += sum;
}

// Adds the sums, [copies, size], to the table's `size` elements.
template <int kVec, typename R>
__device__ __forceinline__ void add_sums(const float* sums, int copies, int size, float factor,
                                         R* elements) {
  for (int k = static_cast<int>(threadIdx.x) * kVec; k < size; k += kSgdThreads * kVec) {
    Columns<kVec> total = {};
    bool any = false;
    for (int copy = 0; copy < copies; ++copy) {
      const float* part = sums + copy * size + k;
#pragma unroll
      for (int v = 0; v < kVec; ++v) total.value[v] += part[v];
    }
#pragma unroll
    for (int v = 0; v < kVec; ++v) any |= total.value[v] != 0.0f;
    if (any) add_to_row(elements + k, total, factor);
  }
}

template <typename R, typename T, typename Id>
__global__ void __launch_bounds__(kSgdThreads, 2)
    small_kernel(BatchPart<Id> part, const __grid_constant__ SelectedTables tables, Slices slices,
                 const T* __restrict__ gradients, R* __restrict__ rows, DeviceStep device_step) {
  float* const sums = reinterpret_cast<float*>(shared_memory());
  const RowStep step = device_step.read();
  const int dim = static_cast<int>(part.dim);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int warps_per_sample = (dim + 31) / 32;
  const int column = warp % warps_per_sample * 32 + static_cast<int>(threadIdx.x % 32);
  const int copy = warp / warps_per_sample;
  const int64_t units = (part.batch + slices.samples - 1) / slices.samples * part.tables;
  for (int64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const int table = static_cast<int>(unit % part.tables);
    const int64_t first = unit / part.tables * slices.samples;
    const int64_t end = first + slices.samples < part.batch ? first + slices.samples : part.batch;
    if (step.scale == 0.0f) {
      for (int64_t sample = first + threadIdx.x; sample < end; sample += kSgdThreads) {
        checked_row(part, tables.ranges, sample, table, tables.number[table]);
      }
      continue;
    }
    const int size = static_cast<int>(tables.ranges.rows[table]) * dim;
    const int fitting = size > 0 ? slices.floats / size : kWarpsPerBlock;
    const int working = kWarpsPerBlock / warps_per_sample;
    const int copies = fitting < working ? fitting : working;
    for (int k = static_cast<int>(threadIdx.x); k < copies * size; k += kSgdThreads) sums[k] = 0;
    __syncthreads();
    if (copy < copies) {
      add_samples(part, tables, table, gradients, column, first + 32 * copy, end, 32 * copies,
                  sums + copy * size);
    }
    __syncthreads();
    R* const elements = rows + tables.ranges.base[table] * part.dim;
    const float factor = -(step.learning_rate * step.scale);
    if (slices.wide) {
      add_sums<4>(sums, copies, size, factor, elements);
    } else {
      add_sums<1>(sums, copies, size, factor, elements);
    }
    __syncthreads();
  }
}

}  // namespace

cudaError_t sgd_of_small_tables(const DlrmEmbeddingBatch& batch, const SgdPlan& plan,
                                const DeviceStep& step, const void* gradients, void* rows,
                                cudaStream_t stream) {
  if (plan.small_tables == 0) return cudaSuccess;
  const int64_t even = (batch.batch * plan.small_tables + kMostSlices - 1) / kMostSlices;
  Slices slices;
  slices.samples = even > kMinSlice ? (even + 31) / 32 * 32 : kMinSlice;
  slices.wide = batch.dim % 4 == 0 && aligned(rows, 4 * sizeof(float));
  // As many copies of the largest sums as there are warps for, if they fit.
  const int64_t copies = kWarpsPerBlock / ((batch.dim + 31) / 32);
  const int64_t most = plan.most_small_rows * batch.dim * copies;
  const int64_t share = static_cast<int64_t>(plan.share / sizeof(float));
  slices.floats = static_cast<int>(most < share ? most : share);
  return with_types(batch, gradients, rows, [&](auto element, auto id, auto, auto row) {
    using T = decltype(element);
    using Id = decltype(id);
    using R = decltype(row);
    return for_selected_tables<Id>(
        batch, plan, true, [&](const BatchPart<Id>& part, const SelectedTables& tables) {
          const int64_t units = (part.batch + slices.samples - 1) / slices.samples * part.tables;
          return launch(small_kernel<R, T, Id>, units, kSgdThreads,
                        static_cast<size_t>(slices.floats) * sizeof(float), stream, part, tables,
                        slices, static_cast<const T*>(gradients), static_cast<R*>(rows), step);
        });
  });
}

}  // namespace dlrm::gpu
