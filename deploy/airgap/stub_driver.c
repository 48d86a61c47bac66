// A stub CUDA driver that reports one GPU.
//
// TensorFlow lists a GPU only after it has loaded every CUDA library that it needs. With this as
// libcuda.so.1, and as libnvidia-ml.so.1 for newer releases, a machine without a GPU can check that
// a bundle has all of them.
#include <stddef.h>
#include <string.h>

enum { kMultiprocessors = 16, kWarp = 10, kMajor = 75, kMinor = 76 };

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char* nvmlErrorString(int code) { return "a stub driver"; }

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* version) { *version = 12020; return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char* name, int size, int device) { strncpy(name, "stub", size); return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)16 << 30; return 0; }
int cuDeviceGetPCIBusId(char* id, int size, int device) { strncpy(id, "0000:ff:00.0", size); return 0; }
int cuDeviceGetUuid(char* uuid, int device) { memset(uuid, 0, 16); return 0; }
int cuDeviceGetUuid_v2(char* uuid, int device) { memset(uuid, 0, 16); return 0; }
int cuDeviceGetProperties(void* properties, int device) { memset(properties, 0, 48); return 0; }
int cuGetErrorName(int code, const char** name) { *name = "STUB"; return 0; }
int cuGetErrorString(int code, const char** text) { *text = "a stub driver"; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  switch (attribute) {
    case kMajor: *value = 9; break;
    case kMinor: *value = 0; break;
    case kWarp: *value = 32; break;
    case kMultiprocessors: *value = 132; break;
    default: *value = 1024;
  }
  return 0;
}
