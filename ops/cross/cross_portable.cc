#include "cpu/vector_portable.h"
#include "cross/cross_rows.h"

namespace dlrm {
namespace portable {

template <class S, class C>
CrossFunctions<S, C> Cross() {
  return CrossFunctionsOf<PortableVector, S, C>();
}

template CrossFunctions<float, float> Cross<float, float>();
template CrossFunctions<Bf16, Bf16> Cross<Bf16, Bf16>();
template CrossFunctions<Bf16, float> Cross<Bf16, float>();

}  // namespace portable
}  // namespace dlrm
