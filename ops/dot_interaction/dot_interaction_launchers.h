// Plain launchers of the dot-interaction CUDA kernels: pointers, sizes, stream.
//
// Shapes: B samples, F features (the bottom MLP output first, then F - 1 embedding vectors),
// D embedding dimension, W the width of an output row; the layout is in dot_interaction_layout.h.
// Products have float32 accuracy (float32 inputs: three TF32 products each) and accumulate in
// float32. All pointers except `shape` and `rows` are device memory. Inputs and outputs must not
// overlap.
#ifndef DLRM_OPS_DOT_INTERACTION_LAUNCHERS_H_
#define DLRM_OPS_DOT_INTERACTION_LAUNCHERS_H_

#include <cuda_runtime_api.h>

#include "cuda_types.h"
#include "dot_interaction/dot_interaction_layout.h"

extern "C" {

typedef struct {
  int64_t batch;     // B >= 0
  int64_t features;  // F >= 1
  int64_t dim;       // D >= 1
  int32_t dtype;     // DlrmDType of every tensor
} DlrmInteractionShape;

// W, the width of an output row in elements.
int64_t dlrm_dot_interaction_width(int64_t features, int64_t dim);

// output [B, W]. Returns cudaErrorInvalidValue for a shape out of range.
cudaError_t dlrm_dot_interaction_forward(const DlrmInteractionShape* shape,
                                         const dlrm::FeatureRows<const void>* rows, void* output,
                                         cudaStream_t stream);

// grad_output [B, W] -> grads, of the rows. The padding columns of grad_output are not read.
cudaError_t dlrm_dot_interaction_backward(const DlrmInteractionShape* shape,
                                          const dlrm::FeatureRows<const void>* rows,
                                          const void* grad_output,
                                          const dlrm::FeatureRows<void>* grads,
                                          cudaStream_t stream);

}  // extern "C"

#endif  // DLRM_OPS_DOT_INTERACTION_LAUNCHERS_H_
