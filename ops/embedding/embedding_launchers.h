// Plain launchers of the embedding CUDA kernels: they take pointers, sizes and a stream.
//
// Shapes: T tables of rows [D] are stored back to back in `rows`; table t occupies rows
// [base_rows[t], base_rows[t] + table_rows[t]). ids [B, T] count from 0 within their table;
// vectors and gradients are [B, T, D]. Row numbers and element offsets are 64-bit throughout.
// `rows`, `ids`, `gradients`, `vectors` and `workspace` are device memory; `base_rows` and
// `table_rows` are host memory, read before the call returns.
//
// With `hotness` or `offsets` a batch has several ids per sample and table, a bag: the lookup pools
// the rows of a bag, and an update applies the gradient of a bag to each of its ids, repeated ones
// included.
//
// An id outside [0, table_rows[t]) is never used as an address: the lookup writes zeros for it, an
// update skips it, and the first such id found is written to the error record.
#ifndef DLRM_OPS_EMBEDDING_LAUNCHERS_H_
#define DLRM_OPS_EMBEDDING_LAUNCHERS_H_

#include <cuda_runtime_api.h>

#include "cuda_types.h"
#include "embedding/row_optimizers.h"

extern "C" {

// In host memory that the device can write. Kernels access it only for a bad id, so that it costs
// nothing otherwise and the host never waits for the stream.
typedef struct {
  int32_t state;  // 0 empty, 1 being written, 2 the other fields are valid
  int32_t table;
  int64_t sample;
  int64_t id;
  int64_t bound;  // rows of that table
} DlrmIdError;

typedef struct {
  int64_t batch;              // B >= 0
  int64_t tables;             // T >= 0
  int64_t dim;                // D >= 1
  int64_t total_rows;         // rows in `rows`
  const void* ids;            // [B, T]
  const int64_t* base_rows;   // [T], host memory
  const int64_t* table_rows;  // [T], host memory
  DlrmIdError* error;         // from dlrm_id_error_create
  int32_t id_type;            // DlrmIdType
  int32_t dtype;              // DlrmDType of vectors or gradients
  int32_t row_type;           // DlrmDType of `rows`: DLRM_FLOAT32
  // Bags of fixed slots: ids is [B, W] with W = the sum of hotness; table t has hotness[t] >= 1
  // adjacent columns. Each is null (one id per sample and table), or in host memory.
  const int32_t* hotness;   // [T]
  const uint8_t* mean;      // [T]: pool by the mean, not by the sum; null: all by the sum
  const uint8_t* variable;  // [T]: an id of -1 is an empty slot; null: no slot is ever empty
  // Bags of any length, of a single table, pooled by the sum: ids is [ids_count], and bag b is ids
  // offsets[b] .. offsets[b + 1]. Null, or [B + 1] in device memory. Offsets that decrease or are
  // outside [0, ids_count] give bags of any of the ids, but no access outside.
  const int32_t* offsets;
  int64_t ids_count;
} DlrmEmbeddingBatch;

// learning_rate and scale are read by the kernels, so that the host does not wait for them and a
// CUDA graph can be replayed with other values.
typedef struct {
  int32_t optimizer;           // index in dlrm::RowRules
  int32_t deterministic;       // 0: SGD may add gradients in any order (atomics, faster)
  const float* learning_rate;  // device memory, one float
  const float* scale;          // device memory, one float: a factor on the gradients
  float hyperparameters[dlrm::kMaxHyperparameters];
  float* states[dlrm::kMaxRowStates];  // device memory: [total_rows, D], then [total_rows]
} DlrmEmbeddingUpdate;

// Allocates an empty record, for the life of the process.
cudaError_t dlrm_id_error_create(DlrmIdError** error);

// If a bad id was recorded, copies it to `found`, clears the record and returns 1, else returns 0.
// Does not wait: it sees only kernels that have already run.
int dlrm_id_error_take(DlrmIdError* error, DlrmIdError* found);

// vectors[b, t] = rows[base_rows[t] + ids[b, t]] in the batch's dtype. For bags: the sum of a bag's
// rows, added in float32 in the order of its ids, and for mean[t] multiplied by 1 / the number of
// its ids; zeros for an empty bag.
cudaError_t dlrm_embedding_lookup(const DlrmEmbeddingBatch* batch, const void* rows, void* vectors,
                                  cudaStream_t stream);

// The index of a row optimizer in dlrm::RowRules, -1 for an unknown name.
int dlrm_row_optimizer(const char* name);

// Device memory that an update needs.
cudaError_t dlrm_embedding_workspace_bytes(const DlrmEmbeddingBatch* batch,
                                           const DlrmEmbeddingUpdate* update, size_t* bytes);

// Applies a rule of row_optimizers.h to the rows of the batch. The result is independent of device
// and launch, except for SGD with atomics: SGD applies a row's gradients one after another in batch
// order (sample by sample), the other rules apply their sum, added in that order, once.
// A scale of exactly 0 leaves rows and states unchanged whatever the gradients are, also if they
// are infinite or NaN; ids are still checked. Fewer than 2^31 ids and bags, total_rows < 2^32.
//
// The gradient of a bag with mean[t] is multiplied by 1 / the number of its ids, rounded; a row's
// gradients are in the order of sample, table, id.
cudaError_t dlrm_embedding_update(const DlrmEmbeddingBatch* batch,
                                  const DlrmEmbeddingUpdate* update, const void* gradients,
                                  void* rows, void* workspace, size_t workspace_bytes,
                                  cudaStream_t stream);

// rows[k] ~ U[-limit, limit) for k < count: a function of the seed, the table's index (below 2^32),
// the row's number first_row + k row_stride in its table, and the column only.
cudaError_t dlrm_embedding_initialize(float* rows, int64_t dim, int64_t count, int64_t first_row,
                                      int64_t row_stride, int64_t table_index, int64_t seed,
                                      float limit, cudaStream_t stream);

}  // extern "C"

#endif  // DLRM_OPS_EMBEDDING_LAUNCHERS_H_
