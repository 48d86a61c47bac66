// AVX2 and F16C versions of loops in columns.cc, eight values at a time.
#pragma once

#include <cstdint>

#include "preprocessing/preprocessing.h"

namespace dlrm {

// Returns whether this processor and this build support the functions below. DLRM_CPU_ISA=portable
// disables them.
bool UseColumnsAvx2();

// Returns the bytes of an id of a type in `DlrmIdBlock`.
inline int64_t SizeOf(int64_t type) { return type == 'i' ? 4 : type == 'h' ? 2 : 1; }

// Returns whether eight columns of one id become eight adjacent int32 in each row.
bool IsEightToWiden(const DlrmIdBlock* blocks);

// The inverse: whether eight adjacent int32 of each row become columns of one id.
bool IsEightToNarrow(const DlrmIdBlock* blocks);

// Copy complete groups of eight rows of such blocks, from row `begin` on and up to row `end`.
// Return the first row that is left.
int64_t WidenEightAvx2(const DlrmIdBlock* blocks, int64_t begin, int64_t end);
int64_t NarrowEightAvx2(const DlrmIdBlock* blocks, int64_t begin, int64_t end);

// Converts finite halves to floats; subnormal halves are exact in any mode of the thread.
void HalvesToFloatsAvx2(const uint16_t* halves, int64_t n, float* floats);

}  // namespace dlrm
