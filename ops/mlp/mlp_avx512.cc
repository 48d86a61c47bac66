#include "cpu/vector_avx512.h"
#include "mlp/mlp_rows.h"

namespace dlrm {
namespace avx512 {

template <class S, class C>
MlpFunctions<S, C> Mlp() {
  return MlpFunctionsOf<Avx512Vector, S, C>();
}

template MlpFunctions<float, float> Mlp<float, float>();
template MlpFunctions<Bf16, Bf16> Mlp<Bf16, Bf16>();
template MlpFunctions<Bf16, float> Mlp<Bf16, float>();

}  // namespace avx512
}  // namespace dlrm
