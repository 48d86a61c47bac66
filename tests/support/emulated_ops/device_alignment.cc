// Preloaded (LD_PRELOAD): aligns the memory of TensorFlow's CPU device like that of a GPU, on which
// kernels rely.

#include <dlfcn.h>
#include <stdlib.h>

#include <algorithm>

namespace {

constexpr size_t kAlignment = 256;

template <class Function>
Function Next(const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int posix_memalign(void** memory, size_t alignment, size_t bytes) noexcept {
  static const auto next = Next<int (*)(void**, size_t, size_t)>("posix_memalign");
  return next(memory, std::max(alignment, kAlignment), bytes);
}

void* aligned_alloc(size_t alignment, size_t bytes) noexcept {
  void* memory = nullptr;
  return posix_memalign(&memory, alignment, bytes) == 0 ? memory : nullptr;
}

}  // extern "C"
