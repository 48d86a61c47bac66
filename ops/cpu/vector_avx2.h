// Eight floats at a time with AVX2, FMA and F16C; the interface is documented in vector_portable.h.

#ifndef DLRM_OPS_CPU_VECTOR_AVX2_H_
#define DLRM_OPS_CPU_VECTOR_AVX2_H_

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "cpu/element_types.h"

namespace dlrm {
namespace {

struct Avx2Vector {
  using Register = __m256;
  static constexpr int kFloats = 8;
  static constexpr int kLanes = 2;
  static constexpr int kGradientRows = 3;
  static constexpr int kGradientColumns = 4;

  static Register Zero() { return _mm256_setzero_ps(); }
  static Register Broadcast(float value) { return _mm256_set1_ps(value); }

  static Register Load(const float* p) { return _mm256_loadu_ps(p); }
  static Register Load(const Bf16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static Register Load(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void Store(float* p, Register r) { _mm256_storeu_ps(p, r); }
  static void Store(Bf16* p, Register r) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), Round(r));
  }
  static void Store(Half* p, Register r) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  template <class T>
  static Register LoadFirst(const T* p, int64_t count) {
    T padded[8] = {};
    memcpy(padded, p, count * sizeof(T));
    return Load(padded);
  }
  template <class T>
  static void StoreFirst(T* p, Register r, int64_t count) {
    T padded[8];
    Store(padded, r);
    memcpy(p, padded, count * sizeof(T));
  }
  static void Stream(float* p, Register r) { _mm256_stream_ps(p, r); }
  static void Stream(Bf16* p, Register r) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p), Round(r));
  }
  static void Stream(Half* p, Register r) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static void Fence() { _mm_sfence(); }

  static Register Add(Register a, Register b) { return _mm256_add_ps(a, b); }
  static Register Subtract(Register a, Register b) { return _mm256_sub_ps(a, b); }
  static Register Multiply(Register a, Register b) { return _mm256_mul_ps(a, b); }
  static Register Divide(Register a, Register b) { return _mm256_div_ps(a, b); }
  static Register SquareRoot(Register a) { return _mm256_sqrt_ps(a); }
  static Register MultiplyAdd(Register a, Register b, Register sum) {
    return _mm256_fmadd_ps(a, b, sum);
  }
  static Register Relu(Register a) { return _mm256_fmadd_ps(a, Zero(), _mm256_max_ps(Zero(), a)); }
  static Register WherePositive(Register a, Register value) {
    return _mm256_and_ps(_mm256_cmp_ps(a, Zero(), _CMP_GT_OQ), value);
  }
  static Register Where(Register condition, Register a, Register b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(condition, Zero(), _CMP_NEQ_UQ));
  }
  static Register BroadcastLane(const float* p) {
    return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(p));
  }
  static void TransposeLanes(Register* rows) {
    const Register low = _mm256_permute2f128_ps(rows[0], rows[1], 0x20);
    rows[1] = _mm256_permute2f128_ps(rows[0], rows[1], 0x31);
    rows[0] = low;
  }
  static void SumLanes(const Register* sums, float* const* out) {
    const Register s01 =
        _mm256_add_ps(_mm256_unpacklo_ps(sums[0], sums[1]), _mm256_unpackhi_ps(sums[0], sums[1]));
    const Register s23 =
        _mm256_add_ps(_mm256_unpacklo_ps(sums[2], sums[3]), _mm256_unpackhi_ps(sums[2], sums[3]));
    // Lane l: the sums of lane l of sums[0], sums[1], sums[2], sums[3].
    const Register all =
        _mm256_add_ps(_mm256_shuffle_ps(s01, s23, 0x44), _mm256_shuffle_ps(s01, s23, 0xee));
    const __m128 low = _mm256_castps256_ps128(all), high = _mm256_extractf128_ps(all, 1);
    const __m128 first = _mm_unpacklo_ps(low, high), second = _mm_unpackhi_ps(low, high);
    _mm_storel_pi(reinterpret_cast<__m64*>(out[0]), first);
    _mm_storeh_pi(reinterpret_cast<__m64*>(out[1]), first);
    _mm_storel_pi(reinterpret_cast<__m64*>(out[2]), second);
    _mm_storeh_pi(reinterpret_cast<__m64*>(out[3]), second);
  }

 private:
  // Eight floats to bfloat16: nearest, ties to even; a NaN stays a NaN.
  static __m128i Round(Register r) {
    const __m256i bits = _mm256_castps_si256(r);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(r, r, _CMP_UNORD_Q));
    const __m256i top = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, nan, is_nan), 16);
    const __m256i packed = _mm256_packus_epi32(top, top);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
  }
};

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_CPU_VECTOR_AVX2_H_
