// AVX2 and F16C versions of loops in columns.cc, eight values at a time.
#pragma once

#include <cstdint>

namespace dlrm {

// Returns whether this processor and this build support the functions below. DLRM_CPU_ISA=portable
// disables them.
bool UseColumnsAvx2();

// Writes the ids of rows [begin, end) and tables [first, first + 8) to ids [rows, tables].
// `columns` and `widths` (1, 2 or 4 bytes per id) are for all tables.
void WidenEightAvx2(const void* const* columns, const int64_t* widths, int64_t begin, int64_t end,
                    int64_t first, int64_t tables, int32_t* ids);

// Converts finite halves to floats; subnormal halves are exact in any mode of the thread.
void HalvesToFloatsAvx2(const uint16_t* halves, int64_t n, float* floats);

}  // namespace dlrm
