// NVTX is header-only: its first call loads the tool named by NVTX_INJECTION64_PATH. Without a tool
// every call is a null-pointer test.
#include "nvtx/domain.h"

#ifdef DLRM_HAVE_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

namespace dlrm {

#ifdef DLRM_HAVE_NVTX
namespace {

// Null if no tool is attached.
nvtxDomainHandle_t Domain() {
  static const nvtxDomainHandle_t domain = nvtxDomainCreateA("dlrm");
  return domain;
}

}  // namespace

bool NvtxToolAttached() { return Domain() != nullptr; }

uint64_t NvtxStart(const char* name) {
  nvtxEventAttributes_t attributes = {};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = name;
  return nvtxDomainRangeStartEx(Domain(), &attributes);
}

void NvtxEnd(uint64_t range) { nvtxDomainRangeEnd(Domain(), range); }
#else
bool NvtxToolAttached() { return false; }
uint64_t NvtxStart(const char*) { return 0; }
void NvtxEnd(uint64_t) {}
#endif

}  // namespace dlrm

// For Python code outside graphs.
extern "C" {

__attribute__((visibility("default"))) int dlrm_nvtx_is_built() {
#ifdef DLRM_HAVE_NVTX
  return 1;
#else
  return 0;
#endif
}

__attribute__((visibility("default"))) int dlrm_nvtx_listens() { return dlrm::NvtxToolAttached(); }

__attribute__((visibility("default"))) uint64_t dlrm_nvtx_start(const char* name) {
  return dlrm::NvtxStart(name);
}

__attribute__((visibility("default"))) void dlrm_nvtx_end(uint64_t range) { dlrm::NvtxEnd(range); }
}
