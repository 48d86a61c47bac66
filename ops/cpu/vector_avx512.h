// Sixteen floats at a time with AVX-512; the interface is documented in vector_portable.h.

#ifndef DLRM_OPS_CPU_VECTOR_AVX512_H_
#define DLRM_OPS_CPU_VECTOR_AVX512_H_

// GCC 12's AVX-512 intrinsics initialise "undefined" registers from themselves and warn about it.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>
#include <stdint.h>

#include "cpu/element_types.h"

namespace dlrm {
namespace {

struct Avx512Vector {
  using Register = __m512;
  static constexpr int kFloats = 16;
  static constexpr int kLanes = 4;
  static constexpr int kGradientRows = 3;
  static constexpr int kGradientColumns = 8;

  static Register Zero() { return _mm512_setzero_ps(); }
  static Register Broadcast(float value) { return _mm512_set1_ps(value); }

  static Register Load(const float* p) { return _mm512_loadu_ps(p); }
  static Register Load(const Bf16* p) {
    return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Register Load(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void Store(float* p, Register r) { _mm512_storeu_ps(p, r); }
  static void Store(Bf16* p, Register r) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), Round(r));
  }
  static void Store(Half* p, Register r) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), RoundHalf(r));
  }
  static Register LoadFirst(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(First(count), p);
  }
  static Register LoadFirst(const Bf16* p, int64_t count) {
    return Widen(_mm256_maskz_loadu_epi16(First(count), p));
  }
  static Register LoadFirst(const Half* p, int64_t count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(First(count), p));
  }
  static void StoreFirst(float* p, Register r, int64_t count) {
    _mm512_mask_storeu_ps(p, First(count), r);
  }
  static void StoreFirst(Bf16* p, Register r, int64_t count) {
    _mm256_mask_storeu_epi16(p, First(count), Round(r));
  }
  static void StoreFirst(Half* p, Register r, int64_t count) {
    _mm256_mask_storeu_epi16(p, First(count), RoundHalf(r));
  }
  static void Stream(float* p, Register r) { _mm512_stream_ps(p, r); }
  static void Stream(Bf16* p, Register r) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), Round(r));
  }
  static void Stream(Half* p, Register r) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), RoundHalf(r));
  }
  static void Fence() { _mm_sfence(); }

  static Register Add(Register a, Register b) { return _mm512_add_ps(a, b); }
  static Register Subtract(Register a, Register b) { return _mm512_sub_ps(a, b); }
  static Register Multiply(Register a, Register b) { return _mm512_mul_ps(a, b); }
  static Register Divide(Register a, Register b) { return _mm512_div_ps(a, b); }
  static Register SquareRoot(Register a) { return _mm512_sqrt_ps(a); }
  static Register MultiplyAdd(Register a, Register b, Register sum) {
    return _mm512_fmadd_ps(a, b, sum);
  }
  static Register Relu(Register a) { return _mm512_fmadd_ps(a, Zero(), _mm512_max_ps(Zero(), a)); }
  static Register WherePositive(Register a, Register value) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, Zero(), _CMP_GT_OQ), value);
  }
  static Register Where(Register condition, Register a, Register b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(condition, Zero(), _CMP_NEQ_UQ), b, a);
  }
  static Register BroadcastLane(const float* p) { return _mm512_broadcast_f32x4(_mm_loadu_ps(p)); }
  static void TransposeLanes(Register* rows) {
    const Register a = _mm512_shuffle_f32x4(rows[0], rows[1], 0x88);  // r0.0 r0.2 r1.0 r1.2
    const Register b = _mm512_shuffle_f32x4(rows[0], rows[1], 0xdd);  // r0.1 r0.3 r1.1 r1.3
    const Register c = _mm512_shuffle_f32x4(rows[2], rows[3], 0x88);
    const Register d = _mm512_shuffle_f32x4(rows[2], rows[3], 0xdd);
    rows[0] = _mm512_shuffle_f32x4(a, c, 0x88);
    rows[1] = _mm512_shuffle_f32x4(b, d, 0x88);
    rows[2] = _mm512_shuffle_f32x4(a, c, 0xdd);
    rows[3] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
  static void SumLanes(const Register* sums, float* const* out) {
    const Register s01 =
        _mm512_add_ps(_mm512_unpacklo_ps(sums[0], sums[1]), _mm512_unpackhi_ps(sums[0], sums[1]));
    const Register s23 =
        _mm512_add_ps(_mm512_unpacklo_ps(sums[2], sums[3]), _mm512_unpackhi_ps(sums[2], sums[3]));
    // Lane l: the sums of lane l of sums[0], sums[1], sums[2], sums[3].
    const Register all =
        _mm512_add_ps(_mm512_shuffle_ps(s01, s23, 0x44), _mm512_shuffle_ps(s01, s23, 0xee));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const Register by_sum = _mm512_permutexvar_ps(order, all);
    _mm_storeu_ps(out[0], _mm512_castps512_ps128(by_sum));
    _mm_storeu_ps(out[1], _mm512_extractf32x4_ps(by_sum, 1));
    _mm_storeu_ps(out[2], _mm512_extractf32x4_ps(by_sum, 2));
    _mm_storeu_ps(out[3], _mm512_extractf32x4_ps(by_sum, 3));
  }

 private:
  static __mmask16 First(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
  static Register Widen(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static __m256i RoundHalf(Register r) {
    return _mm512_cvtps_ph(r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // Sixteen floats to bfloat16: nearest, ties to even; a NaN stays a NaN.
  static __m256i Round(Register r) {
    const __m512i bits = _mm512_castps_si512(r);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(r, r, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
  }
};

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_CPU_VECTOR_AVX512_H_
