// Shared by lookup and updates: table ranges, checked row numbers, loads and stores of columns, and
// dispatch by type.
#ifndef DLRM_OPS_EMBEDDING_ROWS_CUH_
#define DLRM_OPS_EMBEDDING_ROWS_CUH_

#include "cuda_elements.cuh"
#include "embedding/embedding_launchers.h"

namespace dlrm::gpu {

constexpr int kWarpsPerBlock = 8;

// Tables per launch; their ranges are kernel parameters (constant memory).
constexpr int kTablesPerLaunch = 128;

struct TableRanges {
  int64_t base[kTablesPerLaunch];
  int64_t rows[kTablesPerLaunch];
};

// The part of a batch for one launch: tables [first_table, first_table + tables).
template <typename Id>
struct BatchPart {
  const Id* ids;
  DlrmIdError* error;
  int64_t batch;
  int64_t dim;
  int64_t all_tables;  // T
  int first_table;
  int tables;
};

// The row of an id, or -1 (and a record) if the id is out of range. `number` is the table's number
// in the batch.
template <typename Id>
__device__ __forceinline__ int64_t row_of_id(const BatchPart<Id>& part, const TableRanges& ranges,
                                             int64_t id, int64_t sample, int table, int number) {
  if (id >= 0 && id < ranges.rows[table]) return ranges.base[table] + id;
  DlrmIdError* error = part.error;
  publish_once(&error->state, [&] {
    error->table = number;
    error->sample = sample;
    error->id = id;
    error->bound = ranges.rows[table];
  });
  return -1;
}

// The same for the id of a sample.
template <typename Id>
__device__ __forceinline__ int64_t checked_row(const BatchPart<Id>& part, const TableRanges& ranges,
                                               int64_t sample, int table, int number) {
  const int64_t id = load_read_only(part.ids + sample * part.all_tables + number);
  return row_of_id(part, ranges, id, sample, table, number);
}
template <typename Id>
__device__ __forceinline__ int64_t checked_row(const BatchPart<Id>& part, const TableRanges& ranges,
                                               int64_t sample, int table) {
  return checked_row(part, ranges, sample, table, part.first_table + table);
}

// kVec neighbouring columns of a row, in float32.
template <int kVec>
struct Columns {
  float value[kVec];
};

__device__ __forceinline__ Columns<1> load_columns(const float* address, Columns<1>) {
  return {{load_read_only(address)}};
}
__device__ __forceinline__ Columns<4> load_columns(const float* address, Columns<4>) {
  const float4 v = load_read_only(reinterpret_cast<const float4*>(address));
  return {{v.x, v.y, v.z, v.w}};
}
template <typename Half>
__device__ __forceinline__ Columns<1> load_columns(const Half* address, Columns<1>) {
  return {{to_float(*address)}};
}
template <typename Half>
__device__ __forceinline__ Columns<4> load_columns(const Half* address, Columns<4>) {
  const uint2 bits = load_read_only(reinterpret_cast<const uint2*>(address));
  Half part[4];
  memcpy(static_cast<void*>(part), &bits, sizeof(bits));
  return {{to_float(part[0]), to_float(part[1]), to_float(part[2]), to_float(part[3])}};
}

// Vectors are stored evict-first: the L2 cache is for the small tables.
template <typename T>
__device__ __forceinline__ void store_columns(T* address, const Columns<1>& columns) {
  *address = from_float<T>(columns.value[0]);
}
__device__ __forceinline__ void store_columns(float* address, const Columns<4>& columns) {
  store_streaming(
      reinterpret_cast<float4*>(address),
      make_float4(columns.value[0], columns.value[1], columns.value[2], columns.value[3]));
}
template <typename Half>
__device__ __forceinline__ void store_columns(Half* address, const Columns<4>& columns) {
  Half part[4];
#pragma unroll
  for (int v = 0; v < 4; ++v) part[v] = from_float<Half>(columns.value[v]);
  uint2 bits;
  memcpy(&bits, part, sizeof(bits));
  store_streaming(reinterpret_cast<uint2*>(address), bits);
}

// Plain accesses to rows and states that no other warp of the launch accesses. With `active` false
// nothing is accessed and a load returns zeros. A new row type is added here and in with_types.
template <int kVec>
__device__ __forceinline__ Columns<kVec> load_row(const float* address, bool active) {
  if constexpr (kVec == 4) {
    const float4 v = load_owned(reinterpret_cast<const float4*>(address), active);
    return {{v.x, v.y, v.z, v.w}};
  } else {
    return {{load_owned(address, active)}};
  }
}
template <int kVec>
__device__ __forceinline__ void store_row(float* address, const Columns<kVec>& c, bool active) {
  if (!active) return;
  if constexpr (kVec == 4) {
    store_owned(reinterpret_cast<float4*>(address),
                make_float4(c.value[0], c.value[1], c.value[2], c.value[3]));
  } else {
    store_owned(address, c.value[0]);
  }
}

// The vector type of the row optimizers on a GPU: one float. Every operation rounds separately (no
// fused multiply-add), so that results equal the CPU kernels'.
struct DeviceFloat {
  using Register = float;
  static __device__ __forceinline__ float Broadcast(float value) { return value; }
  static __device__ __forceinline__ float Add(float a, float b) { return __fadd_rn(a, b); }
  static __device__ __forceinline__ float Subtract(float a, float b) { return __fsub_rn(a, b); }
  static __device__ __forceinline__ float Multiply(float a, float b) { return __fmul_rn(a, b); }
  static __device__ __forceinline__ float Divide(float a, float b) { return a / b; }
  static __device__ __forceinline__ float SquareRoot(float a) { return sqrtf(a); }
  static __device__ __forceinline__ float Where(float condition, float a, float b) {
    return condition != 0.0f ? a : b;
  }
  static __device__ __forceinline__ float WherePositive(float a, float value) {
    return a > 0.0f ? value : 0.0f;
  }
};

inline bool is_valid(const DlrmEmbeddingBatch& batch) {
  return batch.batch >= 0 && batch.tables >= 0 && batch.dim >= 1 && batch.total_rows >= 0 &&
         batch.error != nullptr;
}

inline bool aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Calls `body(element, id, vec, row)` with values of the batch's element, id and row types; vec is
// a Columns<4> where rows allow accesses of four columns, else a Columns<1>.
template <typename Body>
cudaError_t with_types(const DlrmEmbeddingBatch& batch, const void* elements, const void* rows,
                       Body body) {
  const bool wide_elements =
      batch.dim % 4 == 0 &&
      aligned(elements, batch.dtype == DLRM_FLOAT32 ? 4 * sizeof(float) : 4 * sizeof(__half));
  const auto with_row = [&](auto element, auto id, auto row) {
    return wide_elements && aligned(rows, 4 * sizeof(row)) ? body(element, id, Columns<4>{}, row)
                                                           : body(element, id, Columns<1>{}, row);
  };
  const auto with_id = [&](auto element, auto id) {
    if (batch.row_type == DLRM_FLOAT32) return with_row(element, id, float{});
    return cudaErrorInvalidValue;
  };
  const auto with_element = [&](auto element) {
    if (batch.id_type == DLRM_INT32) return with_id(element, int32_t{});
    if (batch.id_type == DLRM_INT64) return with_id(element, int64_t{});
    return cudaErrorInvalidValue;
  };
  return with_element_type(batch.dtype, with_element);
}

// The scalars of an update, as kernels receive them.
struct DeviceStep {
  const float* learning_rate;
  const float* scale;
  float hyperparameters[kMaxHyperparameters];

  explicit DeviceStep(const DlrmEmbeddingUpdate& update)
      : learning_rate(update.learning_rate), scale(update.scale) {
    for (int i = 0; i < kMaxHyperparameters; ++i) hyperparameters[i] = update.hyperparameters[i];
  }

  __device__ __forceinline__ RowStep read() const {
    RowStep step;
    step.learning_rate = load_read_only(learning_rate);
    step.scale = load_read_only(scale);
#pragma unroll
    for (int i = 0; i < kMaxHyperparameters; ++i) step.hyperparameters[i] = hyperparameters[i];
    return step;
  }
};

// SGD with atomics, for dlrm_embedding_update, and the device memory that it needs
// (embedding_sgd.cu).
cudaError_t sgd_workspace_bytes(const DlrmEmbeddingBatch& batch, size_t* bytes);
cudaError_t sgd_with_atomics(const DlrmEmbeddingBatch& batch, const DlrmEmbeddingUpdate& update,
                             const void* gradients, void* rows, void* workspace,
                             size_t workspace_bytes, cudaStream_t stream);

// All other updates, and the device memory that they need (embedding_sorted.cu).
cudaError_t sorted_workspace_bytes(const DlrmEmbeddingBatch& batch, size_t* bytes);
cudaError_t sorted_update(const DlrmEmbeddingBatch& batch, const DlrmEmbeddingUpdate& update,
                          const void* gradients, void* rows, void* workspace,
                          size_t workspace_bytes, cudaStream_t stream);

// Calls `body(part, ranges)` for each group of at most kTablesPerLaunch tables.
template <typename Id, typename Body>
cudaError_t for_table_parts(const DlrmEmbeddingBatch& batch, Body body) {
  for (int64_t first = 0; first < batch.tables; first += kTablesPerLaunch) {
    const int64_t left = batch.tables - first;
    BatchPart<Id> part{static_cast<const Id*>(batch.ids),
                       batch.error,
                       batch.batch,
                       batch.dim,
                       batch.tables,
                       static_cast<int>(first),
                       static_cast<int>(left < kTablesPerLaunch ? left : kTablesPerLaunch)};
    TableRanges ranges = {};
    for (int t = 0; t < part.tables; ++t) {
      const int64_t base = batch.base_rows[first + t], rows = batch.table_rows[first + t];
      if (base < 0 || rows < 0 || base > batch.total_rows - rows) return cudaErrorInvalidValue;
      ranges.base[t] = base;
      ranges.rows[t] = rows;
    }
    const cudaError_t status = body(part, ranges);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_EMBEDDING_ROWS_CUH_
