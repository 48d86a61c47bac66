#include "read_slice/decode.h"
#include "read_slice/decode_kernels.h"

namespace dlrm {

const DecodeKernels& Avx2DecodeKernels() { return kKernels; }

}  // namespace dlrm
