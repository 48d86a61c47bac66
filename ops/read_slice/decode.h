// Decodes stored values to int32 or float32, transforms and checks them.
//
// Loops are branch-free over contiguous values so that the compiler vectorises them for any
// instruction set. One file per instruction set includes this, hence the unnamed namespace: the
// linker would keep only one file's copy of a shared inline function.
#ifndef OPS_READ_SLICE_DECODE_H_
#define OPS_READ_SLICE_DECODE_H_

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "read_slice/decode_kernels.h"

namespace dlrm {
namespace {

// IEEE binary16 bits, as stored.
struct Half {
  uint16_t bits;
};

inline float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t ToBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Branch-free choice; `mask` is all ones or all zeros.
inline uint32_t Select(uint32_t mask, uint32_t yes, uint32_t no) {
  return (yes & mask) | (no & ~mask);
}

// Widens a half without forming a subnormal float, which TensorFlow's threads flush to zero.
inline float WidenHalf(uint16_t half) {
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fff) << 13;
  const uint32_t exponent = magnitude & 0x0f800000u;
  const uint32_t is_subnormal = 0u - static_cast<uint32_t>(exponent == 0);
  const uint32_t is_infinite = 0u - static_cast<uint32_t>(exponent == 0x0f800000u);
  // A subnormal half is 2^-14 * mantissa / 1024: add an implied one, then subtract it.
  const uint32_t exponent_bias = (112u << 23) + (is_infinite & (112u << 23));
  const float with_one = FromBits(magnitude + exponent_bias + (is_subnormal & (1u << 23)));
  const float value = with_one - FromBits(is_subnormal & (113u << 23));
  return FromBits(ToBits(value) | static_cast<uint32_t>(half & 0x8000) << 16);
}

template <typename Stored, typename Out>
inline Out Widen(Stored value) {
  if constexpr (std::is_same_v<Stored, Half>) {
    return static_cast<Out>(WidenHalf(value.bits));
  } else {
    return static_cast<Out>(value);
  }
}

// Decodes rows of `width` values, `stride` bytes apart, into rows `out_stride` values apart.
template <typename Stored, typename Out>
void DecodeRows(const char* in, int64_t stride, int64_t rows, int64_t width, Out* out,
                int64_t out_stride) {
  constexpr int64_t kSize = sizeof(Stored);
  auto run = [](const char* from, int64_t count, Out* to) {
    for (int64_t i = 0; i < count; ++i) {
      Stored value;
      std::memcpy(&value, from + i * kSize, kSize);
      to[i] = Widen<Stored, Out>(value);
    }
  };
  if (stride == width * kSize && out_stride == width) {
    run(in, rows * width, out);
  } else if (width == 1) {
    for (int64_t row = 0; row < rows; ++row) {
      Stored value;
      std::memcpy(&value, in + row * stride, kSize);
      out[row * out_stride] = Widen<Stored, Out>(value);
    }
  } else {
    for (int64_t row = 0; row < rows; ++row) run(in + row * stride, width, out + row * out_stride);
  }
}

// Natural logarithm with an error of at most 2 units in the last place; NaN unless x > 0 and
// finite.
//
// x = m 2^e with m in [sqrt(1/2), sqrt(2)); log m = 2 artanh(s), s = (m - 1) / (m + 1), by its
// series; |s| < 0.172, so the first omitted term is below 2^-28 of the result.
inline float Log(float x) {
  const uint32_t bits = ToBits(x);
  // Offset so that the exponent field changes at sqrt(1/2) instead of 1.
  const uint32_t shifted = bits - 0x3f3504f3u;
  const int32_t exponent = static_cast<int32_t>(shifted) >> 23;
  const float m = FromBits((shifted & 0x007fffffu) + 0x3f3504f3u);
  const float e = static_cast<float>(exponent);
  const float f = m - 1.0f;
  const float s = f / (2.0f + f);
  const float z = s * s;
  const float series = z * (0.66666667f + z * (0.4f + z * (0.28571429f + z * 0.22222222f)));
  // ln 2 in two parts, the first with trailing zeros so that e times it is exact.
  const float low = e * 1.42860677e-06f;
  // 2 s = f - s f: the series then only corrects the exact leading term f.
  const float log_m = f - s * (f - series);
  const float value = e * 0.693145752f + (low + log_m);
  // Bits of positive finite floats are 1 to 0x7f7fffff.
  const uint32_t is_fine = 0u - static_cast<uint32_t>(bits - 1 < 0x7f7fffffu);
  return FromBits(Select(is_fine, ToBits(value), 0x7fc00000u));
}

// values[i] = log(values[i] + shift).
inline void ShiftedLog(float* values, int64_t count, float shift) {
  for (int64_t i = 0; i < count; ++i) values[i] = Log(values[i] + shift);
}

// Whether every value is finite.
inline bool AllFinite(const float* values, int64_t count) {
  int32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    int32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return largest < 0x7f800000;
}

// Whether every value is 0 or 1.
inline bool AllBinary(const float* values, int64_t count) {
  int32_t wrong = 0;
  for (int64_t i = 0; i < count; ++i) {
    wrong |= (values[i] != 0.0f) & (values[i] != 1.0f);
  }
  return wrong == 0;
}

// Whether all ids [rows, width], as unsigned numbers, are at most largest[column]. `worst` is
// scratch [width].
inline bool AllAtMost(const int32_t* ids, int64_t rows, int64_t width, const uint32_t* largest,
                      uint32_t* worst) {
  for (int64_t j = 0; j < width; ++j) worst[j] = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* sample = ids + row * width;
    for (int64_t j = 0; j < width; ++j) {
      // As unsigned, a negative id is larger than every bound.
      const uint32_t id = static_cast<uint32_t>(sample[j]);
      worst[j] = id > worst[j] ? id : worst[j];
    }
  }
  bool at_most = true;
  for (int64_t j = 0; j < width; ++j) at_most &= worst[j] <= largest[j];
  return at_most;
}

// Decodes lists to rows of `width` values `out_stride` apart, -1 after the list. Returns the
// largest value, as unsigned.
//
// A branch on the length of short lists would often be mispredicted. So the values after a list are
// read too, and replaced: at least those up to 16.
template <typename Stored>
uint32_t DecodeLists(const char* in, const int64_t* starts, int64_t rows, int64_t width,
                     int32_t* out, int64_t out_stride) {
  constexpr int64_t kSize = sizeof(Stored);
  uint32_t worst = 0;
  for (int64_t row = 0; row < rows; ++row, out += out_stride) {
    const int64_t length = starts[row + 1] - starts[row];
    const int64_t read = (length | 15) < width ? (length | 15) + 1 : width;
    const char* from = in + starts[row] * kSize;
    for (int64_t i = 0; i < read; ++i) {
      Stored value;
      std::memcpy(&value, from + i * kSize, kSize);
      const uint32_t is_in_list = 0u - static_cast<uint32_t>(i < length);
      const uint32_t id = static_cast<uint32_t>(static_cast<int32_t>(value)) & is_in_list;
      worst = id > worst ? id : worst;
      out[i] = static_cast<int32_t>(id | ~is_in_list);
    }
    for (int64_t i = read; i < width; ++i) out[i] = -1;
  }
  return worst;
}

inline uint32_t Lists(Stored stored, const char* in, const int64_t* starts, int64_t rows,
                      int64_t width, int32_t* out, int64_t out_stride) {
  switch (stored) {
    case Stored::kUint8:
      return DecodeLists<uint8_t>(in, starts, rows, width, out, out_stride);
    case Stored::kInt8:
      return DecodeLists<int8_t>(in, starts, rows, width, out, out_stride);
    case Stored::kInt16:
      return DecodeLists<int16_t>(in, starts, rows, width, out, out_stride);
    default:
      return DecodeLists<int32_t>(in, starts, rows, width, out, out_stride);
  }
}

template <typename Out>
void Decode(Stored stored, const char* in, int64_t stride, int64_t rows, int64_t width, Out* out,
            int64_t out_stride) {
  switch (stored) {
    case Stored::kUint8:
      return DecodeRows<uint8_t, Out>(in, stride, rows, width, out, out_stride);
    case Stored::kInt8:
      return DecodeRows<int8_t, Out>(in, stride, rows, width, out, out_stride);
    case Stored::kInt16:
      return DecodeRows<int16_t, Out>(in, stride, rows, width, out, out_stride);
    case Stored::kInt32:
      return DecodeRows<int32_t, Out>(in, stride, rows, width, out, out_stride);
    case Stored::kHalf:
      return DecodeRows<Half, Out>(in, stride, rows, width, out, out_stride);
    case Stored::kFloat:
      return DecodeRows<float, Out>(in, stride, rows, width, out, out_stride);
  }
}

constexpr DecodeKernels kKernels = {Decode<float>, Decode<int32_t>, ShiftedLog, AllFinite,
                                    AllBinary,     AllAtMost,       Lists};

}  // namespace
}  // namespace dlrm

#endif  // OPS_READ_SLICE_DECODE_H_
