// What columns.cc does, eight values at a time, where the processor has AVX2 and F16C.
#pragma once

#include <cstdint>

namespace dlrm {

// Whether this processor and this build have the functions below, and DLRM_CPU_ISA is not portable.
bool UseColumnsAvx2();

// Writes ids of rows [begin, end) and tables [first, first + 8) side by side, `tables` a row.
// columns and widths (1, 2 or 4 bytes an id) are those of all tables.
void WidenEightAvx2(const void* const* columns, const int64_t* widths, int64_t begin, int64_t end,
                    int64_t first, int64_t tables, int32_t* ids);

// Writes finite halves as floats; subnormal ones are taken as they are, whatever the thread's mode.
void HalvesToFloatsAvx2(const uint16_t* halves, int64_t n, float* floats);

}  // namespace dlrm
