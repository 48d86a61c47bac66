#include "cpu/vector_portable.h"
#include "dot_interaction/dot_interaction_backward.h"

namespace dlrm {
namespace portable {

template <class T>
DotInteractionFunctions<T> DotInteraction() {
  using V = PortableVector;
  return {Forward<Float32Products<V, T>>, Backward<V, T>, ScratchBytes<V, T>};
}

template DotInteractionFunctions<float> DotInteraction<float>();
template DotInteractionFunctions<Bf16> DotInteraction<Bf16>();
template DotInteractionFunctions<Half> DotInteraction<Half>();

}  // namespace portable
}  // namespace dlrm
