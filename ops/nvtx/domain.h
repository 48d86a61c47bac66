// The process's NVTX ranges, all in one domain, "dlrm".
#ifndef DLRM_OPS_NVTX_DOMAIN_H_
#define DLRM_OPS_NVTX_DOMAIN_H_

#include <cstdint>

namespace dlrm {

// Whether a tool records the domain's ranges. False in a build without NVTX.
bool NvtxToolAttached();

// Starts a process range, which may end on another thread. Returns its number for NvtxEnd.
uint64_t NvtxStart(const char* name);

// Ends a range, on any thread.
void NvtxEnd(uint64_t range);

}  // namespace dlrm

#endif  // DLRM_OPS_NVTX_DOMAIN_H_
