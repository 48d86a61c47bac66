#include "cpu/vector_avx2.h"
#include "dot_interaction/dot_interaction_backward.h"

namespace dlrm {
namespace avx2 {
namespace {

using V = Avx2Vector;

// Sixteen columns of bfloat16 as one register of the even columns and one of the odd columns. A
// shift and a mask separate them; columns in order would cross lanes in both directions.
struct EvenAndOddColumns {
  static constexpr int kRegisters = 2;

  static void Load(const Bf16* p, __m256* r) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    r[0] = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16));
    r[1] = _mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(~0xffff)));
  }
  static void LoadFirst(const Bf16* p, int64_t count, __m256* r) {
    Bf16 padded[16] = {};
    memcpy(padded, p, count * sizeof(Bf16));
    Load(padded, r);
  }
  static void Store(Bf16* p, const __m256* r) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), Round(r[0], r[1]));
  }
  static void StoreFirst(Bf16* p, const __m256* r, int64_t count) {
    Bf16 padded[16];
    Store(padded, r);
    memcpy(p, padded, count * sizeof(Bf16));
  }
  static void Stream(Bf16* p, const __m256* r) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), Round(r[0], r[1]));
  }

 private:
  static __m256i Join(__m256i even, __m256i odd) {
    return _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xaa);
  }
  // Bits whose upper half is the nearest bfloat16, ties to even. Not valid for a NaN.
  static __m256i RoundNumbers(__m256 r) {
    const __m256i bits = _mm256_castps_si256(r);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  }
  static __m256i Round(__m256 even, __m256 odd) {
    const __m256i even_bits = RoundNumbers(even), odd_bits = RoundNumbers(odd);
    if (__builtin_expect(_mm256_movemask_ps(_mm256_cmp_ps(even, odd, _CMP_UNORD_Q)) != 0, 0)) {
      return Join(KeepNan(even, even_bits), KeepNan(odd, odd_bits));
    }
    return Join(even_bits, odd_bits);
  }
  static __m256i KeepNan(__m256 r, __m256i rounded) {
    const __m256i quiet = _mm256_or_si256(_mm256_castps_si256(r), _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(r, r, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, quiet, is_nan);
  }
};

}  // namespace

template <class T>
DotInteractionFunctions<T> DotInteraction() {
  return {Forward<Float32Products<V, T>>, Backward<V, T>, ScratchBytes<V, T>};
}

template <>
DotInteractionFunctions<Bf16> DotInteraction<Bf16>() {
  using Columns = EvenAndOddColumns;
  return {Forward<Float32Products<V, Bf16>>, Backward<V, Bf16, Columns>,
          ScratchBytes<V, Bf16, Columns>};
}

template DotInteractionFunctions<float> DotInteraction<float>();
template DotInteractionFunctions<Half> DotInteraction<Half>();

}  // namespace avx2
}  // namespace dlrm
