// The dot interaction's CPU kernels: one set of plain functions for each instruction set.
//
// No TensorFlow header here, so that the kernels can be built and tested without it.

#ifndef DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_CPU_H_
#define DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_CPU_H_

#include <stddef.h>
#include <stdint.h>

#include "cpu/element_types.h"
#include "cpu/instruction_set.h"
#include "dot_interaction/dot_interaction_layout.h"

namespace dlrm {

template <class T>
struct DotInteractionFunctions {
  // Writes output rows [begin, end) of `width` elements.
  void (*forward)(const DotInteractionShape& shape, const FeatureRows<const T>& features, T* output,
                  int64_t begin, int64_t end, void* scratch);
  // Writes the gradients of the rows of samples [begin, end), given those of the output rows.
  // `features_gradient` may be `features`.
  void (*backward)(const DotInteractionShape& shape, const FeatureRows<const T>& features,
                   const T* gradient, const FeatureRows<T>& features_gradient, int64_t begin,
                   int64_t end, void* scratch);
  // Bytes of scratch memory that forward and backward need, aligned to 64.
  size_t (*scratch_bytes)(const DotInteractionShape& shape);
};

namespace portable {
template <class T>
DotInteractionFunctions<T> DotInteraction();
}
namespace avx2 {
template <class T>
DotInteractionFunctions<T> DotInteraction();
}
namespace avx512 {
template <class T>
DotInteractionFunctions<T> DotInteraction();
}
namespace bf16 {
DotInteractionFunctions<Bf16> DotInteraction();
}

}  // namespace dlrm

#endif  // DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_CPU_H_
