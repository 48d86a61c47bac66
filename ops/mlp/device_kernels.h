// The MLP's own kernels: copies of weights and input for cuBLASLt, and what cuBLASLt could not fuse
// to a product. Pointers to elements of type `dtype` are aligned to 16 bytes.
#ifndef DLRM_OPS_MLP_DEVICE_KERNELS_H_
#define DLRM_OPS_MLP_DEVICE_KERNELS_H_

#include <cuda_runtime_api.h>

#include "cuda_types.h"

namespace dlrm::gpu::mlp {

// Copies of one launch.
constexpr int kMostCopies = 48;

// `count` float32 numbers, converted, then zeros up to `padded`.
struct WeightCopy {
  const float* source;
  void* target;
  int64_t count;
  int64_t padded;
};

// Rows, each followed by zeros up to a multiple of 16 bytes; target NULL: none.
struct RowsCopy {
  const void* source;
  void* target;
  int64_t rows;
  int64_t columns;
  int64_t padded_columns;
};

// At most kMostCopies, and the rows, in one launch.
cudaError_t copy_for_products(int dtype, const WeightCopy* weights, int count, const RowsCopy& rows,
                              cudaStream_t stream);

// x [rows, columns] += bias [columns], then ReLU if `relu`; NaN stays NaN.
cudaError_t add_bias(int dtype, void* x, const void* bias, int64_t rows, int64_t columns, bool relu,
                     cudaStream_t stream);

// result = activation > 0 ? gradient : 0; `result` may be `gradient`.
cudaError_t mask_gradient(int dtype, const void* gradient, const void* activation, void* result,
                          int64_t count, cudaStream_t stream);

// Partial sums that column_sums needs: this many rows of `columns`.
int64_t column_sum_parts(int64_t rows);

// sums[c] = the sum of x[:, c] in float32, in an order that depends on the shape only. `parts`:
// float32 [column_sum_parts(rows), columns].
cudaError_t column_sums(int dtype, const void* x, int64_t rows, int64_t columns, float* parts,
                        float* sums, cudaStream_t stream);

cudaError_t copy_floats(const float* source, float* target, int64_t count, cudaStream_t stream);

}  // namespace dlrm::gpu::mlp

#endif  // DLRM_OPS_MLP_DEVICE_KERNELS_H_
