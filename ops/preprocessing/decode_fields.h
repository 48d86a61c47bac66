// Decodes one field of a Criteo line, eight bytes at a time in a machine word.
//
// A decoder gets a pointer to the field's first byte and advances it past the separator that ends
// the field. It may read kSlack bytes from there, and never advances past a line feed within the
// field. It returns false for a malformed field; the pointer and the stored values are then
// undefined.
#ifndef DLRM_OPS_PREPROCESSING_DECODE_FIELDS_H_
#define DLRM_OPS_PREPROCESSING_DECODE_FIELDS_H_

#include <cstdint>
#include <cstring>

namespace dlrm {

constexpr int64_t kSlack = 16;
constexpr int kHexDigits = 8;
// Longer numbers are malformed, even with leading zeros.
constexpr int kDecimalDigits = 16;

constexpr uint64_t Repeat(uint8_t byte) { return byte * 0x0101010101010101u; }

// Loads eight bytes; the byte at p is the least significant one.
inline uint64_t LoadWord(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

// Only inlined decoders keep the position within a line in a register.
#define DLRM_INLINE inline __attribute__((always_inline))

// Returns the value of up to eight decimal digits, given as numbers 0 to 9, not as characters.
inline uint32_t CombineDecimals(uint64_t digits) {
  digits = digits * 10 + (digits >> 8);
  digits = (digits & 0x00FF00FF00FF00FFu) * 100 + ((digits >> 16) & 0x00FF00FF00FF00FFu);
  digits = (digits & 0x0000FFFF0000FFFFu) * 10000 + ((digits >> 32) & 0x0000FFFFu);
  return static_cast<uint32_t>(digits);
}

// Decodes a decimal field without a tab in its first eight bytes. Returns a pointer to the next
// field, or null for a malformed one.
__attribute__((noinline)) inline const uint8_t* DecodeLongInteger(const uint8_t* q,
                                                                  int32_t* value) {
  const bool negative = *q == '-';
  q += negative;
  int64_t magnitude = 0;
  int digits = 0;
  for (; static_cast<uint8_t>(*q - '0') <= 9; ++q) {
    if (++digits > kDecimalDigits) return nullptr;
    magnitude = magnitude * 10 + (*q - '0');
  }
  if (*q != '\t' || magnitude > INT64_C(0x7FFFFFFF) + negative) return nullptr;
  *value = static_cast<int32_t>(negative ? -magnitude : magnitude);
  return q + 1;
}

// Decodes an int32 in decimal, or an empty field, and a tab. The value of an empty field is 0.
DLRM_INLINE bool DecodeInteger(const uint8_t*& p, int32_t* value, uint8_t* present) {
  uint64_t word = LoadWord(p);
  const uint64_t other = word ^ Repeat('\t');
  // The lowest bit set is that of the first tab.
  const uint64_t tabs = (other - Repeat(0x01)) & ~other & Repeat(0x80);
  if (__builtin_expect(tabs == 0, 0)) {
    *present = 1;
    p = DecodeLongInteger(p, value);
    return p != nullptr;
  }
  const int bits = __builtin_ctzll(tabs) - 7;  // 8 * the field's length, 0 to 56.
  const uint32_t negative = (word & 0xFF) == '-';
  const int digit_bits = bits - 8 * static_cast<int>(negative);
  word >>= 8 * negative;
  // Shifts the digits to the upper end, after leading zeros; in two steps, since a shift by 64 bits
  // is undefined.
  const uint64_t digits = (word ^ Repeat('0')) << (56 - digit_bits) << 8;
  const bool decimal = (((digits + Repeat(0x76)) | digits) & Repeat(0x80)) == 0;
  if (!decimal || (negative != 0 && digit_bits == 0)) return false;
  *value = static_cast<int32_t>((CombineDecimals(digits) ^ (0 - negative)) + negative);
  *present = bits != 0;
  p += bits / 8 + 1;
  return true;
}

// Returns whether all eight bytes are hexadecimal digits.
inline bool AreHexDigits(uint64_t word) {
  const uint64_t low = word & Repeat(0x7F);
  const uint64_t lower_case = low | Repeat(0x20);
  // Bit 7 of each byte of a sum tells: >= '0', > '9', >= 'a', > 'f'. No sum overflows its byte.
  const uint64_t digit = (low + Repeat(0x80 - '0')) & ~(low + Repeat(0x80 - '9' - 1));
  const uint64_t letter =
      (lower_case + Repeat(0x80 - 'a')) & ~(lower_case + Repeat(0x80 - 'f' - 1));
  return ((digit | letter) & ~word & Repeat(0x80)) == Repeat(0x80);
}

// Returns the value of eight hexadecimal digits, the first one in the least significant byte.
inline uint32_t CombineHex(uint64_t word) {
  uint64_t nibbles = (word & Repeat(0x0F)) + ((word >> 6) & Repeat(0x01)) * 9;
  nibbles = __builtin_bswap64(nibbles);
  nibbles = (nibbles | (nibbles >> 4)) & 0x00FF00FF00FF00FFu;
  nibbles = (nibbles | (nibbles >> 8)) & 0x0000FFFF0000FFFFu;
  return static_cast<uint32_t>(nibbles | (nibbles >> 16));
}

// Returns a pointer past the separator at p: a tab, or LF or CR LF after the last field. Null if
// there is none.
template <bool kLast>
const uint8_t* AfterSeparator(const uint8_t* p) {
  if (!kLast) return *p == '\t' ? p + 1 : nullptr;
  p += *p == '\r';
  return *p == '\n' ? p + 1 : nullptr;
}

// Decodes a categorical field that has not eight digits. Returns null for a malformed one.
template <bool kLast>
__attribute__((noinline)) const uint8_t* DecodeShortHex(const uint8_t* p, uint32_t* value,
                                                        uint8_t* present) {
  uint32_t sum = 0;
  int digits = 0;
  for (;; ++p, ++digits) {
    const uint8_t digit = *p - '0', letter = (*p | 0x20) - 'a';
    if (digit > 9 && letter > 5) break;
    if (digits == kHexDigits) return nullptr;
    sum = sum << 4 | (digit <= 9 ? digit : letter + 10u);
  }
  *value = sum;
  *present = digits > 0;
  return AfterSeparator<kLast>(p);
}

// Decodes up to eight hexadecimal digits in either case. The value of an empty field is 0.
template <bool kLast>
DLRM_INLINE bool DecodeHex(const uint8_t*& p, uint32_t* value, uint8_t* present) {
  constexpr uint8_t kSeparator = kLast ? '\n' : '\t';
  const uint64_t word = LoadWord(p);
  // Criteo's fields are full or empty. There is no branch between the two to mispredict.
  const uint32_t full = AreHexDigits(word) & (p[kHexDigits] == kSeparator);
  const uint32_t empty = (word & 0xFF) == kSeparator;
  if (__builtin_expect((full | empty) == 0, 0)) {
    p = DecodeShortHex<kLast>(p, value, present);
    return p != nullptr;
  }
  *value = CombineHex(word) & (0 - full);
  *present = full;
  p += 1 + kHexDigits * full;
  return true;
}

}  // namespace dlrm

#endif  // DLRM_OPS_PREPROCESSING_DECODE_FIELDS_H_
