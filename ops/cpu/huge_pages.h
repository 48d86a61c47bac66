// Huge pages behind large buffers: fewer page faults while they are fresh, fewer TLB misses later.

#ifndef DLRM_OPS_CPU_HUGE_PAGES_H_
#define DLRM_OPS_CPU_HUGE_PAGES_H_

#include <stddef.h>

namespace dlrm {

// Asks the operating system to back [data, data + bytes) with huge pages from now on, as far as
// whole ones fit in. Costs less than a microsecond where it was asked before.
void AdviseHugePages(const void* data, size_t bytes);

// Gathers the pages already there into huge ones, where the system can (Linux 6.1).
void CollapseHugePages(const void* data, size_t bytes);

}  // namespace dlrm

#endif  // DLRM_OPS_CPU_HUGE_PAGES_H_
