// Plain launchers of the MLP on a GPU: they take pointers, sizes and a stream.
//
// Shapes: batch B, widths[0] = K, then the width of each layer. Matrices are row-major: x [B, K],
// kernel l [widths[l], widths[l + 1]], activations and their gradients [B, widths[l + 1]]. They are
// of type `dtype`; kernels, biases and their gradients are float32. All pointers are device memory,
// except arrays of pointers and `widths`, which are read before a call returns.
//
// Activations and their gradients are aligned to 16 bytes. Float32 arrays may be anywhere, but
// products are faster if they are aligned to 16 bytes, too, and rows are multiples of 16 bytes.
//
// Products are cuBLASLt's, of the library that the process has already loaded (TensorFlow's or
// PyTorch's), with sums in float32. The first call of a shape on a device searches for algorithms;
// later ones only launch kernels, so that they can be captured in a CUDA graph. Calls are
// thread-safe.
#ifndef DLRM_OPS_MLP_MLP_LAUNCHERS_H_
#define DLRM_OPS_MLP_MLP_LAUNCHERS_H_

#include <cuda_runtime_api.h>
#include <stddef.h>

#include "cuda_types.h"

extern "C" {

typedef struct {
  int64_t batch;          // B >= 0
  const int64_t* widths;  // [layers + 1], each at least 1
  int32_t layers;         // at least 1
  int32_t dtype;          // DlrmDType
  int32_t last_relu;      // whether ReLU follows the last layer
  int32_t tf32;           // float32 only: whether products may round operands to TF32
} DlrmMlp;

// Each function returns cudaSuccess, or another code, and then dlrm_mlp_error() says what failed.

// Bytes of `saved`, what a training step keeps between forward and backward besides the activations
// (16-bit copies of the weights, bits of the ReLUs, the padded input), and of `workspace`, the
// temporary memory of a call. Both are to be aligned to 256 bytes.
cudaError_t dlrm_mlp_saved_bytes(const DlrmMlp* mlp, size_t* bytes);
cudaError_t dlrm_mlp_workspace_bytes(const DlrmMlp* mlp, size_t* bytes);

// y = the last layer's activations; hidden[l] = those of layer l, for l < layers - 1. For inference
// `hidden` and `saved` are NULL, and nothing is kept. A ReLU that cuBLASLt has fused to a product
// may turn NaN into 0.
cudaError_t dlrm_mlp_forward(const DlrmMlp* mlp, const void* x, const float* const* kernels,
                             const float* const* biases, void* const* hidden, void* y, void* saved,
                             void* workspace, size_t workspace_bytes, cudaStream_t stream);

// The gradients of x (NULL: not needed), kernels and biases, given the gradient of y, and x,
// `hidden`, kernels and `saved` of the forward call. y is read only with last_relu; without it, the
// gradient may be that before a ReLU which the caller has applied. The gradients of kernels and
// biases are float32 sums that are not rounded to 16 bits.
cudaError_t dlrm_mlp_backward(const DlrmMlp* mlp, const void* gradient, const void* y,
                              const void* x, const void* const* hidden, const float* const* kernels,
                              const void* saved, void* x_gradient, float* const* kernel_gradients,
                              float* const* bias_gradients, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream);

// What the last failed call of this thread reported: one line, valid until the thread's next call.
const char* dlrm_mlp_error(void);

}  // extern "C"

#endif  // DLRM_OPS_MLP_MLP_LAUNCHERS_H_
