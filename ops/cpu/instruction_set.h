// The instruction set of the CPU kernels, chosen at run time.
//
// No TensorFlow header and no inline function here: files compiled for one instruction set include
// this header, and the linker could pick their copy of an inline function for portable code.

#ifndef DLRM_OPS_CPU_INSTRUCTION_SET_H_
#define DLRM_OPS_CPU_INSTRUCTION_SET_H_

namespace dlrm {

// In ascending order: processors with one set also have all earlier sets.
enum class InstructionSet : int {
  kPortable = 0,  // the compiler's base target
  kAvx2 = 1,      // AVX2, FMA, F16C
  kAvx512 = 2,    // AVX-512 F, BW, DQ, VL
  kBf16 = 3,      // AVX-512 with BF16
};

// The set in use: the one named by the environment variable DLRM_CPU_ISA (portable, avx2, avx512,
// bf16; read at the first call), else the best that processor and build support.
InstructionSet CurrentInstructionSet();

// The error in DLRM_CPU_ISA, or an empty string.
const char* InstructionSetError();

const char* InstructionSetName(InstructionSet set);

}  // namespace dlrm

extern "C" {

// For tests and benchmarks: makes `name` the set in use. Returns 0, or -1 (and changes nothing) if
// the name is unknown or this processor or build lacks the set. Do not call while an op of this
// library is running.
__attribute__((visibility("default"))) int dlrm_select_instruction_set(const char* name);

// The name of the set in use.
__attribute__((visibility("default"))) const char* dlrm_instruction_set();
}

#endif  // DLRM_OPS_CPU_INSTRUCTION_SET_H_
