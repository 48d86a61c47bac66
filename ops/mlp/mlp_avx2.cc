#include "cpu/vector_avx2.h"
#include "mlp/mlp_rows.h"

namespace dlrm {
namespace avx2 {

template <class S, class C>
MlpFunctions<S, C> Mlp() {
  return MlpFunctionsOf<Avx2Vector, S, C>();
}

template MlpFunctions<float, float> Mlp<float, float>();
template MlpFunctions<Bf16, Bf16> Mlp<Bf16, Bf16>();
template MlpFunctions<Bf16, float> Mlp<Bf16, float>();

}  // namespace avx2
}  // namespace dlrm
