// Decodes one field of a Criteo line, eight bytes at a time in a machine word.
//
// A decoder takes the field's first byte and moves it past the separator that ends the field. It
// may read kSlack bytes from there, whatever they hold; it never moves past a line feed that does
// not end the line. False means malformed; position and what was stored then have no meaning.
#ifndef DLRM_OPS_PREPROCESSING_DECODE_FIELDS_H_
#define DLRM_OPS_PREPROCESSING_DECODE_FIELDS_H_

#include <cstdint>
#include <cstring>

namespace dlrm {

constexpr int64_t kSlack = 16;
constexpr int kHexDigits = 8;
// More digits than this are malformed whatever they are, as in the NumPy decoder.
constexpr int kDecimalDigits = 16;

constexpr uint64_t Repeat(uint8_t byte) { return byte * 0x0101010101010101u; }

// The byte at p is the least significant one.
inline uint64_t LoadWord(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

// The position within a line stays in a register only where the decoders are inlined.
#define DLRM_INLINE inline __attribute__((always_inline))

// Returns the value of up to eight decimal digits: a word of digits 0 to 9, not of characters.
inline uint32_t CombineDecimals(uint64_t digits) {
  digits = digits * 10 + (digits >> 8);
  digits = (digits & 0x00FF00FF00FF00FFu) * 100 + ((digits >> 16) & 0x00FF00FF00FF00FFu);
  digits = (digits & 0x0000FFFF0000FFFFu) * 10000 + ((digits >> 32) & 0x0000FFFFu);
  return static_cast<uint32_t>(digits);
}

// A decimal field that has no tab among its first eight bytes, so that it is not empty.
// Returns the next field's first byte, or null where DecodeInteger returns false.
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

// An int32 in decimal, or nothing, and a tab. An absent value is 0.
DLRM_INLINE bool DecodeInteger(const uint8_t*& p, int32_t* value, uint8_t* present) {
  uint64_t word = LoadWord(p);
  const uint64_t other = word ^ Repeat('\t');
  // The lowest bit of this that is set is that of the first tab.
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
  // Digits go to the upper end, leading zeros below. In two steps, since a shift by 64 is no shift.
  const uint64_t digits = (word ^ Repeat('0')) << (56 - digit_bits) << 8;
  const bool decimal = (((digits + Repeat(0x76)) | digits) & Repeat(0x80)) == 0;
  if (!decimal || (negative != 0 && digit_bits == 0)) return false;
  *value = static_cast<int32_t>((CombineDecimals(digits) ^ (0 - negative)) + negative);
  *present = bits != 0;
  p += bits / 8 + 1;
  return true;
}

// Tells whether all eight bytes are hexadecimal digits.
inline bool AreHexDigits(uint64_t word) {
  const uint64_t low = word & Repeat(0x7F);
  const uint64_t lower_case = low | Repeat(0x20);
  // Bit 7 of each byte: at least '0', past '9', at least 'a', past 'f'. No sum leaves its byte.
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

// Returns what follows the end of a field, a tab, or LF or CR LF after the last one; null if p is
// not at one.
template <bool kLast>
const uint8_t* AfterSeparator(const uint8_t* p) {
  if (!kLast) return *p == '\t' ? p + 1 : nullptr;
  p += *p == '\r';
  return *p == '\n' ? p + 1 : nullptr;
}

// A categorical field that has not eight digits, or is malformed: returns null then.
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

// One to eight hexadecimal digits in either case, or nothing. An absent value is 0.
template <bool kLast>
DLRM_INLINE bool DecodeHex(const uint8_t*& p, uint32_t* value, uint8_t* present) {
  constexpr uint8_t kSeparator = kLast ? '\n' : '\t';
  const uint64_t word = LoadWord(p);
  // Criteo's fields are one of these two. Without a branch between them, none is mispredicted.
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
