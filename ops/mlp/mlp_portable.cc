#include "cpu/vector_portable.h"
#include "mlp/mlp_rows.h"

namespace dlrm {
namespace portable {

template <class S, class C>
MlpFunctions<S, C> Mlp() {
  return MlpFunctionsOf<PortableVector, S, C>();
}

template MlpFunctions<float, float> Mlp<float, float>();
template MlpFunctions<Bf16, Bf16> Mlp<Bf16, Bf16>();
template MlpFunctions<Bf16, float> Mlp<Bf16, float>();

}  // namespace portable
}  // namespace dlrm
