// cuBLAS and cuBLASLt: products are launches that do nothing. Without NVIDIA's headers, so that
// functions of any arguments can be defined in one way; 0 is success.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"

#pragma GCC visibility push(default)

typedef struct {
  const void* stream;
} Handle;

typedef struct {  // cublasLtMatmulHeuristicResult_t
  uint64_t algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
} Algorithm;

static int create(void** result) {
  *result = calloc(1, 1024);  // more than any descriptor
  return 0;
}

int cublasCreate_v2(void** handle) { return create(handle); }
int cublasSetStream_v2(Handle* handle, const void* stream) {
  handle->stream = stream;
  return 0;
}
int cublasGetStream_v2(Handle* handle, const void** stream) {
  *stream = handle->stream;
  return 0;
}
int cublasGetVersion_v2(void* handle, int* version) {
  *version = 120900;
  return 0;
}
size_t cublasLtGetVersion(void) { return 120900; }
size_t cublasLtGetCudartVersion(void) { return 12090; }
int cublasGetPointerMode_v2(void* handle, int* mode) {
  *mode = 0;
  return 0;
}
int cublasGetMathMode(void* handle, int* mode) {
  *mode = 0;
  return 0;
}
const char* cublasGetStatusString(int status) { return "fake cuBLAS"; }
const char* cublasGetStatusName(int status) { return "FAKE"; }

int cublasLtCreate(void** handle) { return create(handle); }
int cublasLtMatmulDescCreate(void** result) { return create(result); }
int cublasLtMatrixLayoutCreate(void** result) { return create(result); }
int cublasLtMatmulPreferenceCreate(void** result) { return create(result); }
int cublasLtMatmulAlgoGetHeuristic(void* handle, void* operation, void* a, void* b, void* c,
                                   void* d, void* preference, int requested, Algorithm* results,
                                   int* count) {
  *count = requested > 0;
  if (requested > 0) memset(results, 0, sizeof(*results));
  return 0;
}
int cublasLtMatmul(void* handle, void* operation, const void* alpha, const void* a, void* a_layout,
                   const void* b, void* b_layout, const void* beta, const void* c, void* c_layout,
                   void* d, void* d_layout, const void* algorithm, void* workspace, size_t bytes,
                   const void* stream) {
  fake_record("launch", "cublasLtMatmul", 0, stream);
  return 0;
}

#define SUCCEEDS(name) \
  int name(void) { return 0; }
SUCCEEDS(cublasDestroy_v2)
SUCCEEDS(cublasSetMathMode)
SUCCEEDS(cublasSetPointerMode_v2)
SUCCEEDS(cublasSetAtomicsMode)
SUCCEEDS(cublasSetWorkspace_v2)
SUCCEEDS(cublasLtDestroy)
SUCCEEDS(cublasLtMatmulDescDestroy)
SUCCEEDS(cublasLtMatmulDescSetAttribute)
SUCCEEDS(cublasLtMatmulDescGetAttribute)
SUCCEEDS(cublasLtMatrixLayoutDestroy)
SUCCEEDS(cublasLtMatrixLayoutSetAttribute)
SUCCEEDS(cublasLtMatrixLayoutGetAttribute)
SUCCEEDS(cublasLtMatmulPreferenceDestroy)
SUCCEEDS(cublasLtMatmulPreferenceSetAttribute)

#define LAUNCHES(name)                               \
  int name(Handle* handle) {                         \
    fake_record("launch", #name, 0, handle->stream); \
    return 0;                                        \
  }
LAUNCHES(cublasGemmEx)
LAUNCHES(cublasGemmBatchedEx)
LAUNCHES(cublasGemmStridedBatchedEx)
LAUNCHES(cublasSgemm_v2)
LAUNCHES(cublasSgemmEx)
LAUNCHES(cublasSgemmBatched)
LAUNCHES(cublasSgemmStridedBatched)
LAUNCHES(cublasSgemv_v2)
LAUNCHES(cublasHgemm)
LAUNCHES(cublasHgemmStridedBatched)
