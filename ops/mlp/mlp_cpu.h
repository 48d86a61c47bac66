// The elementwise steps between an MLP's matrix products: plain functions for each instruction set.
//
// S is the type of the tensors, C the type of the products' operands. They are equal, or S = Bf16
// and C = float if the processor has no bfloat16 products. In that case the floats hold bfloat16
// values: operands and results are rounded as in bfloat16 products.
//
// No TensorFlow header here, so that the functions can be built without it.

#ifndef DLRM_OPS_MLP_MLP_CPU_H_
#define DLRM_OPS_MLP_MLP_CPU_H_

#include <stdint.h>

#include "cpu/element_types.h"
#include "cpu/instruction_set.h"

namespace dlrm {

template <class S, class C>
struct MlpFunctions {
  // Finishes a layer: z = z or relu(z) (NaN where z is not finite), rounded to S, and copied to
  // `out` unless `out` is null or z. Not fused into the product: oneDNN's ReLU turns NaN into 0,
  // which would hide divergence.
  void (*finish)(C* z, int64_t count, bool relu, S* out);
  // out = gradient where activation > 0, else 0 (everywhere if `activation` is null), rounded to
  // S, all [rows, columns]; sums[columns] += its columns. `out` may be `gradient`.
  void (*mask)(const C* gradient, const S* activation, int64_t rows, int64_t columns, C* out,
               float* sums);
  // Conversions.
  void (*load)(const S* in, int64_t count, C* out);
  void (*store)(const C* in, int64_t count, S* out);
  // out = in rounded to S, stored as float.
  void (*round)(const float* in, int64_t count, float* out);
};

template <class S, class C>
MlpFunctions<S, C> MlpFunctionsFor(InstructionSet set);

namespace portable {
template <class S, class C>
MlpFunctions<S, C> Mlp();
}
namespace avx2 {
template <class S, class C>
MlpFunctions<S, C> Mlp();
}
namespace avx512 {
template <class S, class C>
MlpFunctions<S, C> Mlp();
}

}  // namespace dlrm

#endif  // DLRM_OPS_MLP_MLP_CPU_H_
