#include "cpu/instruction_set.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

namespace dlrm {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "bf16"};

// The best set that this build and the running processor support. __builtin_cpu_supports also
// checks that the operating system saves the wide registers (XGETBV).
InstructionSet Best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#if defined(DLRM_HAVE_AVX2)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("f16c")) {
    return InstructionSet::kPortable;
  }
#if defined(DLRM_HAVE_AVX512)
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return InstructionSet::kAvx2;
  }
#if defined(DLRM_HAVE_BF16)
  if (__builtin_cpu_supports("avx512bf16")) return InstructionSet::kBf16;
#endif
  return InstructionSet::kAvx512;
#else
  return InstructionSet::kAvx2;
#endif
#endif
#endif
  return InstructionSet::kPortable;
}

struct Selection {
  std::atomic<InstructionSet> set;
  std::string error;

  Selection() : set(Best()) {
    const char* name = std::getenv("DLRM_CPU_ISA");
    if (name != nullptr && *name != '\0' && !Select(name)) {
      error = std::string("DLRM_CPU_ISA=") + name +
              " cannot be used: expected portable, avx2, avx512 or bf16, at most " +
              InstructionSetName(Best()) + ", the best of this processor and build";
    }
  }

  bool Select(const char* name) {
    for (int i = 0; i <= static_cast<int>(Best()); ++i) {
      if (std::strcmp(name, kNames[i]) == 0) {
        set = static_cast<InstructionSet>(i);
        return true;
      }
    }
    return false;
  }
};

Selection& Selected() {
  static Selection* selection = new Selection;  // never destroyed: ops may run during exit
  return *selection;
}

}  // namespace

InstructionSet CurrentInstructionSet() { return Selected().set.load(std::memory_order_relaxed); }

const char* InstructionSetError() { return Selected().error.c_str(); }

const char* InstructionSetName(InstructionSet set) { return kNames[static_cast<int>(set)]; }

}  // namespace dlrm

int dlrm_select_instruction_set(const char* name) { return dlrm::Selected().Select(name) ? 0 : -1; }

const char* dlrm_instruction_set() {
  return dlrm::InstructionSetName(dlrm::CurrentInstructionSet());
}
