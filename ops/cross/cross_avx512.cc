#include "cpu/vector_avx512.h"
#include "cross/cross_rows.h"

namespace dlrm {
namespace avx512 {

template <class S, class C>
CrossFunctions<S, C> Cross() {
  return CrossFunctionsOf<Avx512Vector, S, C>();
}

template CrossFunctions<float, float> Cross<float, float>();
template CrossFunctions<Bf16, Bf16> Cross<Bf16, Bf16>();
template CrossFunctions<Bf16, float> Cross<Bf16, float>();

}  // namespace avx512
}  // namespace dlrm
