#include "cpu/huge_pages.h"

#include <stdint.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dlrm {
namespace {

// madvise on the huge pages that lie wholly within [data, data + bytes). A refusal costs speed
// alone, so it is not reported.
void Advise(const void* data, size_t bytes, int advice) {
#if defined(__linux__)
  constexpr uintptr_t kHuge = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHuge * kHuge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
#endif
}

}  // namespace

void AdviseHugePages(const void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  Advise(data, bytes, MADV_HUGEPAGE);
#endif
}

void CollapseHugePages(const void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, which older headers do not name
  Advise(data, bytes, kCollapse);
#endif
}

}  // namespace dlrm
