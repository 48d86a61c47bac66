// bfloat16 and float16 elements of the CPU kernels: stored as bits, converted to float32 to
// compute.
//
// Everything is in an unnamed namespace so that each file that includes this has its own copy,
// compiled with that file's flags.

#ifndef DLRM_OPS_CPU_ELEMENT_TYPES_H_
#define DLRM_OPS_CPU_ELEMENT_TYPES_H_

#include <stdint.h>
#include <string.h>

namespace dlrm {

struct Bf16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

namespace {

inline float FloatFromBits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t BitsOf(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float ToFloat(float value) { return value; }
inline float ToFloat(Bf16 value) { return FloatFromBits(static_cast<uint32_t>(value.bits) << 16); }

// IEEE 754 binary16: 5 exponent bits with bias 15, 10 fraction bits.
inline float ToFloat(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1f;
  const uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0x1f) return FloatFromBits(sign | 0x7f800000u | (fraction << 13));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * (1.0f / 16777216.0f);  // 2^-24
    return sign != 0 ? -magnitude : magnitude;
  }
  return FloatFromBits(sign | ((exponent + 112) << 23) | (fraction << 13));
}

// Rounds to nearest, ties to even; a NaN stays a NaN.
inline Bf16 ToBf16(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return Bf16{static_cast<uint16_t>((bits >> 16) | 0x40)};
  return Bf16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}

inline Half ToHalf(float value) {
  const uint32_t bits = BitsOf(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return Half{static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return Half{static_cast<uint16_t>(sign | 0x7c00u)};  // >= 65520
  if (magnitude < 0x38800000u) {  // below 2^-14: subnormal, a multiple of 2^-24
    // Adding 2^-1 rounds to a multiple of 2^-24 and leaves that multiple in the low bits.
    const float shifted = FloatFromBits(magnitude) + 0.5f;
    return Half{static_cast<uint16_t>(sign | (BitsOf(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1) - 0x38000000u;
  return Half{static_cast<uint16_t>(sign | (rounded >> 13))};
}

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_CPU_ELEMENT_TYPES_H_
