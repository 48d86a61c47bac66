// Dispatch of the elementwise functions by instruction set.

#include "mlp/mlp_cpu.h"

namespace dlrm {

template <class S, class C>
MlpFunctions<S, C> MlpFunctionsFor(InstructionSet set) {
  switch (set) {
    case InstructionSet::kBf16:
    case InstructionSet::kAvx512:
#if defined(DLRM_HAVE_AVX512)
      return avx512::Mlp<S, C>();
#endif
    case InstructionSet::kAvx2:
#if defined(DLRM_HAVE_AVX2)
      return avx2::Mlp<S, C>();
#endif
    case InstructionSet::kPortable:
      break;
  }
  return portable::Mlp<S, C>();
}

template MlpFunctions<float, float> MlpFunctionsFor<float, float>(InstructionSet);
template MlpFunctions<Bf16, Bf16> MlpFunctionsFor<Bf16, Bf16>(InstructionSet);
template MlpFunctions<Bf16, float> MlpFunctionsFor<Bf16, float>(InstructionSet);

}  // namespace dlrm
