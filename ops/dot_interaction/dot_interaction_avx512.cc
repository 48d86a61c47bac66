#include "cpu/vector_avx512.h"
#include "dot_interaction/dot_interaction_backward.h"

namespace dlrm {
namespace avx512 {

template <class T>
DotInteractionFunctions<T> DotInteraction() {
  using V = Avx512Vector;
  return {Forward<Float32Products<V, T>>, Backward<V, T>, ScratchBytes<V, T>};
}

template DotInteractionFunctions<float> DotInteraction<float>();
template DotInteractionFunctions<Bf16> DotInteraction<Bf16>();
template DotInteractionFunctions<Half> DotInteraction<Half>();

}  // namespace avx512
}  // namespace dlrm
