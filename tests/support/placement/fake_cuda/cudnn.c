// cuDNN's handle, which XLA creates before it compiles; no function of cuDNN is called in a step.
#include <stdlib.h>

#include "calls.h"

#pragma GCC visibility push(default)

size_t cudnnGetVersion(void) { return 91000; }
size_t cudnnGetCudartVersion(void) { return 12090; }
int cudnnGetProperty(int type, int* value) {
  *value = (int[]){9, 10, 0}[type];
  return 0;
}
int cudnnCreate(void** handle) {
  *handle = calloc(1, 1024);
  return 0;
}
int cudnnDestroy(void* handle) { return 0; }
int cudnnSetStream(void* handle, const void* stream) { return 0; }
const char* cudnnGetErrorString(int status) { return "fake cuDNN"; }
