#include "preprocessing/columns_by_eight.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdlib>
#include <cstring>

#define DLRM_AVX2 __attribute__((target("avx2,f16c")))

namespace dlrm {
namespace {

constexpr int64_t kLanes = 8;

int32_t Id(const void* column, int64_t width, int64_t row) {
  switch (width) {
    case 1:
      return static_cast<const int8_t*>(column)[row];
    case 2:
      return static_cast<const int16_t*>(column)[row];
    default:
      return static_cast<const int32_t*>(column)[row];
  }
}

// Loads eight ids of one column, starting at `row`.
DLRM_AVX2 inline __m256i EightIds(const void* column, int64_t width, int64_t row) {
  const char* const from = static_cast<const char*>(column) + row * width;
  switch (width) {
    case 1:
      return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    case 2:
      return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    default:
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
}

// Transposes an 8x8 matrix: columns of eight rows become rows of eight columns.
DLRM_AVX2 inline void Transpose(__m256i (&v)[kLanes]) {
  __m256i pairs[kLanes], quads[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < kLanes; i += 4) {
    for (int half = 0; half < 2; ++half) {
      quads[i + 2 * half] = _mm256_unpacklo_epi64(pairs[i + half], pairs[i + half + 2]);
      quads[i + 2 * half + 1] = _mm256_unpackhi_epi64(pairs[i + half], pairs[i + half + 2]);
    }
  }
  // quads[r] holds rows r and r + 4 of columns 0 to 3, quads[r + 4] of columns 4 to 7.
  for (int row = 0; row < 4; ++row) {
    v[row] = _mm256_permute2x128_si256(quads[row], quads[row + 4], 0x20);
    v[row + 4] = _mm256_permute2x128_si256(quads[row], quads[row + 4], 0x31);
  }
}

}  // namespace

bool UseColumnsAvx2() {
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
  const char* const named = std::getenv("DLRM_CPU_ISA");
  return has && (named == nullptr || std::strcmp(named, "portable") != 0);
}

DLRM_AVX2 void WidenEightAvx2(const void* const* columns, const int64_t* widths, int64_t begin,
                              int64_t end, int64_t first, int64_t tables, int32_t* ids) {
  int64_t row = begin;
  for (; row + kLanes <= end; row += kLanes) {
    __m256i block[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      block[i] = EightIds(columns[first + i], widths[first + i], row);
    }
    Transpose(block);
    for (int i = 0; i < kLanes; ++i) {
      int32_t* const out = ids + (row + i) * tables + first;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), block[i]);
    }
  }
  for (; row < end; ++row) {
    for (int64_t table = first; table < first + kLanes; ++table) {
      ids[row * tables + table] = Id(columns[table], widths[table], row);
    }
  }
}

DLRM_AVX2 void HalvesToFloatsAvx2(const uint16_t* halves, int64_t n, float* floats) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i));
    _mm256_storeu_ps(floats + i, _mm256_cvtph_ps(eight));
  }
  for (; i < n; ++i) floats[i] = _cvtsh_ss(halves[i]);
}

}  // namespace dlrm

#else

namespace dlrm {

bool UseColumnsAvx2() { return false; }
void WidenEightAvx2(const void* const*, const int64_t*, int64_t, int64_t, int64_t, int64_t,
                    int32_t*) {}
void HalvesToFloatsAvx2(const uint16_t*, int64_t, float*) {}

}  // namespace dlrm

#endif
