// Constants that the CUDA launchers and their callers share. Plain C: ctypes reads the same values.
#ifndef DLRM_OPS_CUDA_TYPES_H_
#define DLRM_OPS_CUDA_TYPES_H_

#include <stdint.h>

enum DlrmDType { DLRM_FLOAT32 = 0, DLRM_FLOAT16 = 1, DLRM_BFLOAT16 = 2 };
enum DlrmIdType { DLRM_INT32 = 0, DLRM_INT64 = 1 };

#endif  // DLRM_OPS_CUDA_TYPES_H_
