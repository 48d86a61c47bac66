// Which kernel a call takes: element type, shape, alignment.
#ifndef DLRM_OPS_DOT_INTERACTION_DISPATCH_CUH_
#define DLRM_OPS_DOT_INTERACTION_DISPATCH_CUH_

#include "dot_interaction/dot_interaction_launchers.h"
#include "dot_interaction/dot_interaction_tiles.cuh"

namespace dlrm::gpu {

inline bool is_valid(const DlrmInteractionShape& shape) {
  return shape.batch >= 0 && shape.features >= 1 && shape.dim >= 1 && shape.mode >= 0 &&
         shape.mode <= DLRM_INTERACTION_SCALAR;
}

template <typename T>
bool takes_fast_kernel(const DlrmInteractionShape& shape) {
  return shape.mode != DLRM_INTERACTION_SCALAR && shape.features <= kFastFeatures &&
         shape.dim <= kFastDim && shape.dim * sizeof(T) % 16 == 0;
}

inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <typename T>
bool aligned(const FeatureRows<T>& rows) {
  return aligned(rows.bottom) && aligned(rows.vectors) &&
         rows.bottom_stride * sizeof(T) % 16 == 0 && rows.vectors_stride * sizeof(T) % 16 == 0;
}

// Calls `body` with a value of the element type.
template <typename Body>
cudaError_t with_element_type(int dtype, Body body) {
  switch (dtype) {
    case DLRM_FLOAT32:
      return body(float{});
    case DLRM_FLOAT16:
      return body(__half{});
    case DLRM_BFLOAT16:
      return body(__nv_bfloat16{});
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_DOT_INTERACTION_DISPATCH_CUH_
