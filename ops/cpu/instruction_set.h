// Which instruction set the CPU kernels use, chosen at run time.
//
// No TensorFlow header and no inline function here: files compiled for one instruction set include
// this one, and an inline function compiled there could be linked into code that runs everywhere.

#ifndef DLRM_OPS_CPU_INSTRUCTION_SET_H_
#define DLRM_OPS_CPU_INSTRUCTION_SET_H_

namespace dlrm {

// In ascending order: each one's processors have all the earlier ones too.
enum class InstructionSet : int {
  kPortable = 0,  // what the compiler's base target has
  kAvx2 = 1,      // AVX2, FMA, F16C
  kAvx512 = 2,    // AVX-512 F, BW, DQ, VL
  kBf16 = 3,      // AVX-512 with BF16
};

// The set in use: the best that processor and build have, or the one that the environment variable
// DLRM_CPU_ISA (portable, avx2, avx512, bf16) names, read at the first call.
InstructionSet CurrentInstructionSet();

// Empty, or what is wrong with DLRM_CPU_ISA.
const char* InstructionSetError();

const char* InstructionSetName(InstructionSet set);

}  // namespace dlrm

extern "C" {

// For tests and benchmarks: makes `name` the set in use. Returns 0, or -1 (and changes nothing) if
// the name is unknown or this processor or build does not have the set. Not for use while an op
// of this library runs.
__attribute__((visibility("default"))) int dlrm_select_instruction_set(const char* name);

// The name of the set in use.
__attribute__((visibility("default"))) const char* dlrm_instruction_set();
}

#endif  // DLRM_OPS_CPU_INSTRUCTION_SET_H_
