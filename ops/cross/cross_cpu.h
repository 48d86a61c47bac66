// The elementwise steps of a cross network: plain functions for each instruction set.
//
// S is the type of the tensors, C the type of the products' operands; see mlp/mlp_cpu.h. Where they
// differ, C = float holds operands that are rounded to S.
//
// No TensorFlow header here, so that the functions can be built without it.

#ifndef DLRM_OPS_CROSS_CROSS_CPU_H_
#define DLRM_OPS_CROSS_CROSS_CPU_H_

#include <stdint.h>

#include "cpu/element_types.h"
#include "cpu/instruction_set.h"

namespace dlrm {

template <class S, class C>
struct CrossFunctions {
  // A layer's result: out = x0 * z + x, with z and out rounded to S. Copies z to `kept` and out to
  // `y` unless these are null. `out` may be x.
  void (*combine)(const S* x0, const C* z, const C* x, int64_t count, C* out, S* kept, S* y);
  // The input of layer `layers` from the kept z of the layers before it, as `combine` computes it.
  void (*state)(const S* x0, const S* const* z, int64_t layers, int64_t count, C* out);
  // The elementwise gradients of a layer, all [rows, columns]. g is the gradient of its result, or
  // g + more if `more` is not null:
  //   sum = g + more; inner = sum * x0, rounded to S; x0_gradient (+)= sum * z;
  //   bias_gradient[columns] += columns of inner.
  // `sum` may be g, `inner` may be more. x0_gradient is added to unless `first`.
  void (*gradients)(const C* g, const C* more, const S* x0, const S* z, int64_t rows,
                    int64_t columns, C* sum, C* inner, C* x0_gradient, bool first,
                    float* bias_gradient);
  // out = a + b + c.
  void (*add)(const C* a, const C* b, const C* c, int64_t count, S* out);
};

template <class S, class C>
CrossFunctions<S, C> CrossFunctionsFor(InstructionSet set);

namespace portable {
template <class S, class C>
CrossFunctions<S, C> Cross();
}
namespace avx2 {
template <class S, class C>
CrossFunctions<S, C> Cross();
}
namespace avx512 {
template <class S, class C>
CrossFunctions<S, C> Cross();
}

}  // namespace dlrm

#endif  // DLRM_OPS_CROSS_CROSS_CPU_H_
