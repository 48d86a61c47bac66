// Plain launchers of the embedding CUDA kernels: pointers, sizes, stream.
//
// Shapes: T tables of float32 rows [D] lie back to back in `rows`; table t occupies rows
// [base_rows[t], base_rows[t] + table_rows[t]). ids [B, T] count from 0 within their table;
// vectors and gradients are [B, T, D]. Row numbers and element offsets are 64-bit throughout.
// `rows`, `ids`, `gradients`, `vectors` and `workspace` are device memory; `base_rows` and
// `table_rows` are host memory, read before the call returns.
//
// An id outside [0, table_rows[t]) is never used as an address: the lookup gives zeros for it, an
// update passes over it, and the first such id to be found is written to the error record.
#ifndef DLRM_OPS_EMBEDDING_LAUNCHERS_H_
#define DLRM_OPS_EMBEDDING_LAUNCHERS_H_

#include <cuda_runtime_api.h>

#include "cuda_types.h"

#ifdef __cplusplus
extern "C" {
#endif

// Lies in host memory that the device can write; kernels touch it only for a bad id, so that a
// step without one pays nothing and nobody has to wait for the stream.
typedef struct {
  int32_t state;  // 0 nothing yet, 1 being written, 2 the other fields are valid
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
} DlrmEmbeddingBatch;

// Allocates a cleared record.
cudaError_t dlrm_id_error_create(DlrmIdError** error);
cudaError_t dlrm_id_error_destroy(DlrmIdError* error);

// If a bad id was recorded, copies it to `found`, clears the record and returns 1, else 0. Never
// waits: it sees what kernels that have already run wrote.
int dlrm_id_error_take(DlrmIdError* error, DlrmIdError* found);

// vectors[b, t] = rows[base_rows[t] + ids[b, t]] in the batch's dtype.
cudaError_t dlrm_embedding_lookup(const DlrmEmbeddingBatch* batch, const float* rows, void* vectors,
                                  cudaStream_t stream);

// rows[r] -= step * gradient for every id of r, where step = learning_rate * scale. Sums that
// meet in one row are formed in no fixed order (atomics).
cudaError_t dlrm_embedding_sgd(const DlrmEmbeddingBatch* batch, const void* gradients, float* rows,
                               float step, cudaStream_t stream);

// Device memory that the updates below need.
cudaError_t dlrm_embedding_workspace_bytes(const DlrmEmbeddingBatch* batch, size_t* bytes);

// The same update, each row's gradients applied one after another in the order of the batch
// (sample by sample): one result, bit for bit, whatever the device. B T < 2^31, total_rows < 2^32.
cudaError_t dlrm_embedding_sgd_sorted(const DlrmEmbeddingBatch* batch, const void* gradients,
                                      float* rows, float step, void* workspace,
                                      size_t workspace_bytes, cudaStream_t stream);

// Adagrad (Duchi et al., 2011), deterministic. With g = scale * the sum of a row's gradients:
//   accumulator += g^2;  rows -= learning_rate * g / (sqrt(accumulator) + epsilon).
// accumulator is [total_rows, D], or with row_wise [total_rows], which adds mean(g^2).
cudaError_t dlrm_embedding_adagrad(const DlrmEmbeddingBatch* batch, const void* gradients,
                                   float* rows, float* accumulator, int row_wise,
                                   float learning_rate, float scale, float epsilon,
                                   void* workspace, size_t workspace_bytes, cudaStream_t stream);

// rows[k] ~ U[-limit, limit) for k < count: a function of the seed, the table's index (below 2^32),
// the row's number first_row + k row_stride in its table, and the column alone.
cudaError_t dlrm_embedding_initialize(float* rows, int64_t dim, int64_t count, int64_t first_row,
                                      int64_t row_stride, int64_t table_index, int64_t seed,
                                      float limit, cudaStream_t stream);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // DLRM_OPS_EMBEDDING_LAUNCHERS_H_
