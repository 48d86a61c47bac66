// The dot interaction's CPU kernels as plain functions, one set for each instruction set.
//
// No TensorFlow header here, so that the kernels can be built and tested alone.

#ifndef DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_CPU_H_
#define DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_CPU_H_

#include <stddef.h>
#include <stdint.h>

#include "cpu/element_types.h"
#include "cpu/instruction_set.h"

namespace dlrm {

struct DotInteractionShape {
  int64_t features;   // F: rows of a sample, row 0 included
  int64_t dimension;  // D: elements of a row
  int64_t width;      // W: elements of an output row, D + F (F - 1) / 2 rounded up to 8
};

// Where a batch's rows lie: row 0 of sample b at bottom + b * bottom_stride, row i > 0 at
// vectors + b * vectors_stride + (i - 1) * D. Strides are in elements.
template <class T>
struct FeatureRows {
  T* bottom;
  T* vectors;
  int64_t bottom_stride;
  int64_t vectors_stride;
};

template <class T>
struct DotInteractionFunctions {
  // Writes output rows [begin, end) of `width` elements.
  void (*forward)(const DotInteractionShape& shape, const FeatureRows<const T>& features,
                  T* output, int64_t begin, int64_t end, void* scratch);
  // Writes the gradients of the rows of samples [begin, end), given those of the output rows. They
  // may be written over the features themselves.
  void (*backward)(const DotInteractionShape& shape, const FeatureRows<const T>& features,
                   const T* gradient, const FeatureRows<T>& features_gradient, int64_t begin,
                   int64_t end, void* scratch);
  // Bytes of scratch that either needs, aligned to 64.
  size_t (*scratch_bytes)(const DotInteractionShape& shape);
};

// The functions of one instruction set; the next lower one's where it has none of its own.
template <class T>
DotInteractionFunctions<T> DotInteractionFor(InstructionSet set);

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
