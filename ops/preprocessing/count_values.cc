// Counts how often each value of a column occurs: in an array under the modulo rule, in a hash
// table under the frequency rule.
#include "preprocessing/preprocessing.h"

namespace {

// Counters prefetched at a time.
constexpr int64_t kBatch = 128;

constexpr uint32_t kMultiplier = 2654435761u;  // As in lookup.py.

inline bool IsMissing(const uint8_t* validity, int64_t bit) {
  return validity != nullptr && (validity[bit >> 3] >> (bit & 7) & 1) == 0;
}

inline int64_t HomeSlot(uint32_t value, int64_t slots) {
  return static_cast<int64_t>(static_cast<uint64_t>(value * kMultiplier) * slots >> 32);
}

// Returns the slot that holds a value, or the empty slot for it. The upper half of a slot is the
// value, the lower half its count: 0 in an empty slot.
inline uint64_t* FindSlot(uint64_t* table, int64_t slots, uint32_t value, int64_t slot) {
  while (static_cast<uint32_t>(table[slot]) != 0 && table[slot] >> 32 != value) {
    if (++slot == slots) slot = 0;
  }
  return table + slot;
}

}  // namespace

void dlrm_count_values(const uint32_t* values, const uint8_t* validity, int64_t first_bit,
                       int64_t n, uint32_t max_rows, int64_t* counters) {
  uint32_t reduced[kBatch];
  for (int64_t begin = 0; begin < n; begin += kBatch) {
    const int64_t count = n - begin < kBatch ? n - begin : kBatch;
    for (int64_t i = 0; i < count; ++i) {
      // The value under a null is undefined.
      const bool missing = IsMissing(validity, first_bit + begin + i);
      reduced[i] = missing ? 0 : values[begin + i] % max_rows;
      __builtin_prefetch(counters + reduced[i], 1);
    }
    for (int64_t i = 0; i < count; ++i) ++counters[reduced[i]];
  }
}

int64_t dlrm_count_hashed(const uint32_t* values, const uint8_t* validity, int64_t first_bit,
                          int64_t n, uint64_t* table, int64_t slots, int64_t most,
                          int64_t* entries) {
  int64_t home[kBatch];
  for (int64_t begin = 0; begin < n; begin += kBatch) {
    const int64_t count = n - begin < kBatch ? n - begin : kBatch;
    for (int64_t i = 0; i < count; ++i) {
      home[i] = HomeSlot(values[begin + i], slots);
      __builtin_prefetch(table + home[i], 1);
    }
    for (int64_t i = 0; i < count; ++i) {
      if (IsMissing(validity, first_bit + begin + i)) continue;
      const uint32_t value = values[begin + i];
      uint64_t* const slot = FindSlot(table, slots, value, home[i]);
      if (static_cast<uint32_t>(*slot) == 0) {
        if (*entries == most) return begin + i;
        ++*entries;
        *slot = static_cast<uint64_t>(value) << 32;
      }
      if (static_cast<uint32_t>(*slot) == UINT32_MAX) return -1;
      ++*slot;
    }
  }
  return n;
}

void dlrm_rehash(const uint64_t* table, int64_t slots, uint64_t* larger, int64_t larger_slots) {
  for (int64_t i = 0; i < slots; ++i) {
    if (static_cast<uint32_t>(table[i]) == 0) continue;
    const uint32_t value = static_cast<uint32_t>(table[i] >> 32);
    *FindSlot(larger, larger_slots, value, HomeSlot(value, larger_slots)) = table[i];
  }
}
