#include "cpu/vector_avx2.h"
#include "dot_interaction/dot_interaction_backward.h"

namespace dlrm {
namespace avx2 {

template <class T>
DotInteractionFunctions<T> DotInteraction() {
  using V = Avx2Vector;
  return {Forward<Float32Products<V, T>>, Backward<V, T>, ScratchBytes<V, T>};
}

template DotInteractionFunctions<float> DotInteraction<float>();
template DotInteractionFunctions<Bf16> DotInteraction<Bf16>();
template DotInteractionFunctions<Half> DotInteraction<Half>();

}  // namespace avx2
}  // namespace dlrm
