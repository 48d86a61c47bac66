// Plain launchers of the last layer with the log loss, and of the check for finite numbers.
#ifndef DLRM_OPS_LOG_LOSS_LOG_LOSS_LAUNCHERS_H_
#define DLRM_OPS_LOG_LOSS_LOG_LOSS_LAUNCHERS_H_

#include <cuda_runtime_api.h>
#include <stddef.h>

#include "cuda_types.h"

extern "C" {

// The largest width of the last layer's input.
enum { DLRM_LOG_LOSS_MOST_WIDTH = 1024 };

// All pointers are device memory, and of float32 unless another type is given.
typedef struct {
  int64_t batch;           // B >= 1
  int64_t width;           // n, 1 to DLRM_LOG_LOSS_MOST_WIDTH
  int32_t dtype;           // DlrmDType of hidden and hidden_gradient
  int32_t relu;            // whether hidden is the result of a ReLU; see hidden_gradient
  const void* hidden;      // [B, n]
  const float* kernel;     // [n]
  const float* bias;       // [1]
  const float* label;      // [B], from 0 to 1
  const float* scale;      // [1], factor of the gradients
  float* loss;             // [1], mean of log(1 + exp(x)) - label x, x = hidden kernel + bias
  void* hidden_gradient;   // [B, n]; with relu, of the ReLU's input: 0 where hidden <= 0
  float* kernel_gradient;  // [n]
  float* bias_gradient;    // [1]
} DlrmLogLoss;

// Bytes of `workspace`, at most a few MB.
cudaError_t dlrm_log_loss_workspace_bytes(const DlrmLogLoss* loss, size_t* bytes);

// Sums are in an order that depends only on the shape and on whether rows are 16-byte aligned.
cudaError_t dlrm_log_loss(const DlrmLogLoss* loss, void* workspace, size_t workspace_bytes,
                          cudaStream_t stream);

// The largest number of tensors of one call.
enum { DLRM_ALL_FINITE_MOST_TENSORS = 64 };

// finite[0] = 1 if no element of the tensors (each of sizes[i] elements of type `dtype`) is
// infinite or NaN, else 0. `tensors` and `sizes` are host arrays, read before the call returns.
cudaError_t dlrm_all_finite(const void* const* tensors, const int64_t* sizes, int64_t count,
                            int32_t dtype, unsigned char* finite, cudaStream_t stream);

}  // extern "C"

#endif  // DLRM_OPS_LOG_LOSS_LOG_LOSS_LAUNCHERS_H_
