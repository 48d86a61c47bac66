// Products of matrices on a GPU, by cuBLASLt, with what can be fused to them.
//
// Everything that cuBLASLt needs before it can launch (descriptors, algorithm) is made at the first
// product of a shape and kept for the life of the process: later ones allocate nothing, do not wait
// for the device, and can be captured in a CUDA graph. Calls are thread-safe.
#ifndef DLRM_OPS_MLP_DEVICE_PRODUCTS_H_
#define DLRM_OPS_MLP_DEVICE_PRODUCTS_H_

#include <cuda_runtime_api.h>

#include "cuda_types.h"
#include "mlp/cublaslt.h"

namespace dlrm::gpu::mlp {

// Every product gets this much temporary memory, aligned to 256 bytes.
constexpr size_t kProductWorkspaceBytes = size_t{32} << 20;

// The alignment of a pointer that is not known yet (NULL) in `has_algorithm`.
constexpr int kLeastAlignment = 16;

// D [m, n] = op(A) op(B), all column-major as cuBLASLt has them, sums in float32. The row-major
// matrix [r, c] is the column-major [c, r].
struct Product {
  int64_t m, n, k;
  const void* a;  // [m, k], or [k, m] if transposed
  const void* b;  // [k, n], or [n, k] if transposed
  void* d;
  int64_t lda, ldb, ldd;
  bool transpose_a, transpose_b;
  int dtype;   // DlrmDType of A and B
  int result;  // DlrmDType of D and the bias
  bool tf32;   // float32 only
  cublaslt::Epilogue epilogue;
  const void* bias;  // [m], written by kEpilogueBiasGradientA
  const void* bits;  // written by kEpilogueReluAuxBias, read by kEpilogueDrelu
  int64_t bits_ld;
};

// Whether cuBLASLt has an algorithm for a product whose A, B and D, where NULL, are aligned to at
// least kLeastAlignment bytes. Bias and bits must be the ones of the product.
cudaError_t has_algorithm(const Product& product, bool* found);

// cudaErrorNotSupported if there is no algorithm.
cudaError_t multiply(const Product& product, void* workspace, cudaStream_t stream);

// Records one line for dlrm_mlp_error; returns `code`.
__attribute__((format(printf, 2, 3))) cudaError_t failed(cudaError_t code, const char* format, ...);

// The thread's line, "" if there is none.
const char* recorded_error();
void clear_error();

}  // namespace dlrm::gpu::mlp

#endif  // DLRM_OPS_MLP_DEVICE_PRODUCTS_H_
