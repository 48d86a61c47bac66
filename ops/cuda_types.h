// Constants shared by the CUDA launchers and their callers; tests/gpu/launchers.py has a copy.
#ifndef DLRM_OPS_CUDA_TYPES_H_
#define DLRM_OPS_CUDA_TYPES_H_

#include <stdint.h>

enum DlrmDType { DLRM_FLOAT32 = 0, DLRM_FLOAT16 = 1, DLRM_BFLOAT16 = 2 };
enum DlrmIdType { DLRM_INT32 = 0, DLRM_INT64 = 1 };

#endif  // DLRM_OPS_CUDA_TYPES_H_
