// Plain launchers of the dot-interaction CUDA kernels: pointers, sizes, stream.
//
// Shapes: B samples, F features (the bottom MLP output first, then F - 1 embedding vectors),
// D embedding dimension, W the width of an output row; the layout is in dot_interaction_layout.h.
// Products accumulate in float32. All pointers but shape and rows are device memory. Inputs and
// outputs must not overlap.
#ifndef DLRM_OPS_DOT_INTERACTION_LAUNCHERS_H_
#define DLRM_OPS_DOT_INTERACTION_LAUNCHERS_H_

#include <cuda_runtime_api.h>

#include "cuda_types.h"
#include "dot_interaction/dot_interaction_layout.h"

extern "C" {

// How products are formed. 16-bit inputs take tensor cores in the first two modes.
enum DlrmInteractionMode {
  DLRM_INTERACTION_ACCURATE = 0,  // float32 as three TF32 products: float32 accuracy
  DLRM_INTERACTION_TF32 = 1,      // float32 as one TF32 product: about three decimal digits
  DLRM_INTERACTION_SCALAR = 2     // the kernel for every shape, scalar float32 arithmetic
};

typedef struct {
  int64_t batch;     // B >= 0
  int64_t features;  // F >= 1
  int64_t dim;       // D >= 1
  int32_t dtype;     // DlrmDType of every tensor
  int32_t mode;      // DlrmInteractionMode
} DlrmInteractionShape;

// W, the width of an output row in elements.
int64_t dlrm_dot_interaction_width(int64_t features, int64_t dim);

// 1 if aligned tensors of this shape take the tensor-core kernel, else 0.
int dlrm_dot_interaction_is_fast(const DlrmInteractionShape* shape);

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
