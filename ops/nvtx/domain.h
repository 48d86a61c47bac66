// The process's NVTX ranges, all in one domain, "dlrm".
#ifndef DLRM_OPS_NVTX_DOMAIN_H_
#define DLRM_OPS_NVTX_DOMAIN_H_

#include <cstdint>

namespace dlrm {

// Whether a tool takes the domain's ranges. False in a build without NVTX.
bool NvtxListens();

// Starts a range of the process, of any length and on any thread; returns its number, for its end.
uint64_t NvtxStart(const char* name);

// Ends it, on any thread.
void NvtxEnd(uint64_t range);

}  // namespace dlrm

#endif  // DLRM_OPS_NVTX_DOMAIN_H_
