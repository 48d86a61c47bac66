#include "read_slice/decode_kernels.h"

#include "read_slice/decode.h"

namespace dlrm {

const DecodeKernels& PortableDecodeKernels() { return kKernels; }

const DecodeKernels& BestDecodeKernels() {
#ifdef DLRM_HAVE_AVX2
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) return Avx2DecodeKernels();
#endif
  return PortableDecodeKernels();
}

}  // namespace dlrm
