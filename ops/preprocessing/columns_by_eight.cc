#include "preprocessing/columns_by_eight.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstdlib>
#include <cstring>

#define DLRM_AVX2 __attribute__((target("avx2,f16c")))

namespace dlrm {
namespace {

constexpr int64_t kLanes = 8;

// Loads eight ids of a column, starting at `row`.
DLRM_AVX2 inline __m256i EightIds(const DlrmIdBlock& column, int64_t row) {
  const char* const from = static_cast<const char*>(column.source) + row * column.source_stride;
  switch (column.source_type) {
    case 'B':
      return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    case 'b':
      return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    case 'h':
      return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    default:
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
}

// Stores eight ids of a column, starting at `row`.
DLRM_AVX2 inline void StoreEightIds(__m256i ids, const DlrmIdBlock& column, int64_t row) {
  char* const to = static_cast<char*>(column.target) + row * column.target_stride;
  // Chooses the low bytes of the four ids in each half; -1 gives 0.
  const __m256i low16 = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1,
                                         0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i low8 =
      _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                       -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  switch (column.target_type) {
    case 'b': {
      const __m256i bytes = _mm256_shuffle_epi8(ids, low8);
      const __m128i eight =
          _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
      return _mm_storel_epi64(reinterpret_cast<__m128i*>(to), eight);
    }
    case 'h': {
      const __m256i pairs = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(ids, low16), 0x08);
      return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(pairs));
    }
    default:
      return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), ids);
  }
}

// The ids of a source or a target of a block.
struct Ids {
  const char* begin;
  int64_t stride;
  int64_t type;
};

Ids SourceOf(const DlrmIdBlock& block) {
  return {static_cast<const char*>(block.source), block.source_stride, block.source_type};
}

Ids TargetOf(const DlrmIdBlock& block) {
  return {static_cast<const char*>(block.target), block.target_stride, block.target_type};
}

// Returns whether one side of eight blocks is eight adjacent int32 in each row, and on the other
// side the ids of each column are adjacent.
template <class Records, class Columns>
bool AreEight(const DlrmIdBlock* blocks, Records records, Columns columns) {
  const Ids first = records(blocks[0]);
  for (int64_t i = 0; i < kLanes; ++i) {
    const Ids record = records(blocks[i]), column = columns(blocks[i]);
    if (blocks[i].width != 1 || record.type != 'i' || record.stride != first.stride ||
        record.begin != first.begin + 4 * i || column.stride != SizeOf(column.type)) {
      return false;
    }
  }
  return true;
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

bool IsEightToWiden(const DlrmIdBlock* blocks) { return AreEight(blocks, TargetOf, SourceOf); }

bool IsEightToNarrow(const DlrmIdBlock* blocks) { return AreEight(blocks, SourceOf, TargetOf); }

DLRM_AVX2 int64_t WidenEightAvx2(const DlrmIdBlock* blocks, int64_t begin, int64_t end) {
  const int64_t stride = blocks[0].target_stride;
  int64_t row = begin;
  for (; row + kLanes <= end; row += kLanes) {
    __m256i ids[kLanes];
    for (int i = 0; i < kLanes; ++i) ids[i] = EightIds(blocks[i], row);
    Transpose(ids);
    char* const out = static_cast<char*>(blocks[0].target) + row * stride;
    for (int i = 0; i < kLanes; ++i) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i * stride), ids[i]);
    }
  }
  return row;
}

DLRM_AVX2 int64_t NarrowEightAvx2(const DlrmIdBlock* blocks, int64_t begin, int64_t end) {
  const int64_t stride = blocks[0].source_stride;
  int64_t row = begin;
  for (; row + kLanes <= end; row += kLanes) {
    const char* const in = static_cast<const char*>(blocks[0].source) + row * stride;
    __m256i ids[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      ids[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i * stride));
    }
    Transpose(ids);
    for (int i = 0; i < kLanes; ++i) StoreEightIds(ids[i], blocks[i], row);
  }
  return row;
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
bool IsEightToWiden(const DlrmIdBlock*) { return false; }
bool IsEightToNarrow(const DlrmIdBlock*) { return false; }
int64_t WidenEightAvx2(const DlrmIdBlock*, int64_t begin, int64_t) { return begin; }
int64_t NarrowEightAvx2(const DlrmIdBlock*, int64_t begin, int64_t) { return begin; }
void HalvesToFloatsAvx2(const uint16_t*, int64_t, float*) {}

}  // namespace dlrm

#endif
