// Which kernel a call takes, and how it is launched: element type, shape, alignment.
#ifndef DLRM_OPS_DOT_INTERACTION_DISPATCH_CUH_
#define DLRM_OPS_DOT_INTERACTION_DISPATCH_CUH_

#include "dot_interaction/dot_interaction_launchers.h"
#include "dot_interaction/dot_interaction_tiles.cuh"

namespace dlrm::gpu {

// The tensor-core kernels hold one sample in a warp's fragments: at most two tiles of 16 rows.
constexpr int kFastFeatures = 32;
constexpr int kFastDim = 256;

inline bool is_valid(const DlrmInteractionShape& shape) {
  return shape.batch >= 0 && shape.features >= 1 && shape.dim >= 1 && shape.mode >= 0 &&
         shape.mode <= DLRM_INTERACTION_SCALAR;
}

template <typename T>
bool takes_fast_kernel(const DlrmInteractionShape& shape) {
  return shape.mode != DLRM_INTERACTION_SCALAR && shape.features <= kFastFeatures &&
         shape.dim <= kFastDim && shape.dim * sizeof(T) % 16 == 0;
}

// An instance of a tensor-core kernel: D, or 0 where it is known at run time; tiles of 16 rows;
// whether float32 is split into two TF32 numbers.
template <int dim, int tiles, bool split>
struct Instance {
  static constexpr int kDim = dim;
  static constexpr int kTiles = tiles;
  static constexpr bool kSplit = split;
};

// Calls `body` with the instance for a shape that takes the tensor-core kernel.
template <typename T, typename Body>
cudaError_t with_instance(const DlrmInteractionShape& shape, Body body) {
  const auto with_split = [&](auto split) {
    constexpr bool kSplit = decltype(split)::value;
    if (shape.features <= 16) return body(Instance<0, 1, kSplit>());
    if (shape.dim == 128) return body(Instance<128, 2, kSplit>());
    return body(Instance<0, 2, kSplit>());
  };
  if constexpr (sizeof(T) == 4) {
    if (shape.mode == DLRM_INTERACTION_ACCURATE) return with_split(std::true_type());
  }
  return with_split(std::false_type());
}

// Launches a tensor-core kernel: two warps a block, or one where their memory does not fit.
template <typename... Parameters>
cudaError_t launch_warps(void (*kernel)(Parameters...), int64_t batch, int warp_pieces,
                         cudaStream_t stream, const std::common_type_t<Parameters>&... arguments) {
  const size_t warp_bytes = warp_pieces * size_t{16};
  size_t limit = 0;
  const cudaError_t status = shared_memory_limit(&limit);
  if (status != cudaSuccess) return status;
  const int warps = 2 * warp_bytes <= limit ? 2 : 1;
  return launch(kernel, (batch + warps - 1) / warps, 32 * warps, warps * warp_bytes, stream,
                arguments...);
}

// Launches a kernel for every shape.
template <typename... Parameters>
cudaError_t launch_generic(void (*kernel)(Parameters...), int64_t batch, cudaStream_t stream,
                           const std::common_type_t<Parameters>&... arguments) {
  return launch(kernel, batch, kGenericThreads, 2 * sizeof(Tile), stream, arguments...);
}

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_DOT_INTERACTION_DISPATCH_CUH_
