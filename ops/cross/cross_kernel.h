// Shared by the forward and the backward kernel: the chunk size. A cross network's products are
// those of an MLP of widths n, r, n, r, n, ..., so both kernels are built on the MLP's base class.

#ifndef DLRM_OPS_CROSS_CROSS_KERNEL_H_
#define DLRM_OPS_CROSS_CROSS_KERNEL_H_

#include <algorithm>

#include "cross/cross_shapes.h"
#include "mlp/mlp_kernel.h"

namespace dlrm {

// Default rows of a chunk. Many rows amortize packing (float32, see MlpForward) and, backward, the
// addition to sums as large as the kernels; few rows keep a chunk in the caches.
inline int64_t CrossChunkRows(size_t element_bytes, int64_t width, bool backward) { return 512; }

}  // namespace dlrm

#endif  // DLRM_OPS_CROSS_CROSS_KERNEL_H_
