// Plain launchers that end a step: the update of all dense variables, and the record of the loss.
//
// All pointers to numbers are device memory; arrays of pointers and sizes are host memory, read
// before a call returns.
#ifndef DLRM_OPS_DENSE_UPDATE_DENSE_UPDATE_LAUNCHERS_H_
#define DLRM_OPS_DENSE_UPDATE_DENSE_UPDATE_LAUNCHERS_H_

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {

enum DlrmDenseOptimizer { DLRM_DENSE_SGD = 0, DLRM_DENSE_ADAGRAD = 1, DLRM_DENSE_ADAM = 2 };

// The largest numbers of variables, and of pieces, of one call.
enum { DLRM_DENSE_MOST = 64 };
// The largest number of hyper-parameters.
enum { DLRM_DENSE_HYPERPARAMETERS = 3 };

// Variables are float32. Their gradients, in order and without gaps, are the concatenation of the
// pieces, which may be longer: the rest is ignored. A gradient is divided by loss_scale.
typedef struct {
  int32_t optimizer;  // DlrmDenseOptimizer
  int32_t variables;  // number
  int32_t pieces;     // number
  // Adagrad: epsilon. Adam: beta1, beta2, epsilon.
  float hyperparameters[DLRM_DENSE_HYPERPARAMETERS];
  float* const* variable;         // [variables]
  float* const* states;           // [variables x states of the optimizer], a variable's together
  const int64_t* variable_size;   // [variables]
  const float* const* piece;      // [pieces]
  const int64_t* piece_size;      // [pieces]
  int64_t* iteration;             // [1], number of updates so far; the call adds 1
  const float* learning_rate;     // [1]
  const float* loss_scale;        // [1]
  const unsigned char* finite;    // [1]; 0: nothing changes, iteration included
  unsigned char* weights_finite;  // [1], written: whether all variables are finite afterwards
} DlrmDenseUpdate;

cudaError_t dlrm_dense_update_workspace_bytes(const DlrmDenseUpdate* update, size_t* bytes);
cudaError_t dlrm_dense_update(const DlrmDenseUpdate* update, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream);

// The record of training/dense_phases.py LossRecord, after a step with `loss`. A loss with which
// the weights became infinite or NaN is recorded as NaN.
typedef struct {
  const float* loss;                    // [1]
  const unsigned char* finite;          // [1], whether the step was applied
  const unsigned char* weights_finite;  // [1]
  int32_t skips;                        // whether steps that are not finite are skipped
  double* sum;                          // [1]
  float* last;                          // [1]
  int64_t* steps;                       // [1]
} DlrmLossRecord;

cudaError_t dlrm_record_loss(const DlrmLossRecord* record, cudaStream_t stream);

}  // extern "C"

#endif  // DLRM_OPS_DENSE_UPDATE_DENSE_UPDATE_LAUNCHERS_H_
