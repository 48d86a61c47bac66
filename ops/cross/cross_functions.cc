// Dispatch of the elementwise functions by instruction set.

#include "cross/cross_cpu.h"

namespace dlrm {

template <class S, class C>
CrossFunctions<S, C> CrossFunctionsFor(InstructionSet set) {
  switch (set) {
    case InstructionSet::kBf16:
    case InstructionSet::kAvx512:
#if defined(DLRM_HAVE_AVX512)
      return avx512::Cross<S, C>();
#endif
    case InstructionSet::kAvx2:
#if defined(DLRM_HAVE_AVX2)
      return avx2::Cross<S, C>();
#endif
    case InstructionSet::kPortable:
      break;
  }
  return portable::Cross<S, C>();
}

template CrossFunctions<float, float> CrossFunctionsFor<float, float>(InstructionSet);
template CrossFunctions<Bf16, Bf16> CrossFunctionsFor<Bf16, Bf16>(InstructionSet);
template CrossFunctions<Bf16, float> CrossFunctionsFor<Bf16, float>(InstructionSet);

}  // namespace dlrm
