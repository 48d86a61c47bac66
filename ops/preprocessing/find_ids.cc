// Finds ids in the hash tables of dataset/preprocessing/lookup.py; converts columns to records.
#include "preprocessing/preprocessing.h"

namespace {

// Concurrent searches, whose slots are prefetched together.
constexpr int64_t kSearches = 128;
// Rows transposed at a time: one cache line of each column.
constexpr int64_t kTileRows = 16;
constexpr int64_t kFields = 40;

constexpr uint32_t kMultiplier = 2654435761u;  // As in lookup.py.

}  // namespace

int64_t dlrm_find_ids(const uint32_t* values, const uint8_t* validity, int64_t first_bit, int64_t n,
                      uint32_t max_rows, const uint64_t* table, int64_t slots, int32_t* ids) {
  int64_t without_id = 0;
  uint32_t sought[kSearches];
  uint64_t slot[kSearches];
  const auto missing = [&](int64_t i) {
    const int64_t bit = first_bit + i;
    return validity != nullptr && (validity[bit >> 3] >> (bit & 7) & 1) == 0;
  };
  for (int64_t begin = 0; begin < n; begin += kSearches) {
    const int64_t count = n - begin < kSearches ? n - begin : kSearches;
    for (int64_t i = 0; i < count; ++i) {
      // The value under a null is undefined.
      uint32_t value = missing(begin + i) ? 0 : values[begin + i];
      if (max_rows != 0) value %= max_rows;
      sought[i] = value;
      slot[i] = static_cast<uint64_t>(value * kMultiplier) * slots >> 32;
      __builtin_prefetch(table + slot[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      // The upper half of an entry is the value, the lower half id + 1, or 0 in an empty slot.
      const uint64_t* entry = table + slot[i];
      while (*entry >> 32 != sought[i] && static_cast<uint32_t>(*entry) != 0) ++entry;
      uint32_t id = static_cast<uint32_t>(*entry);
      // Without the modulo rule a missing value has no id.
      if (max_rows == 0 && missing(begin + i)) id = 0;
      without_id += id == 0;
      ids[begin + i] = static_cast<int32_t>(id == 0 ? 0 : id - 1);
    }
  }
  return without_id;
}

void dlrm_to_records(const int32_t* fields, int64_t rows, int32_t* records) {
  for (int64_t begin = 0; begin < rows; begin += kTileRows) {
    const int64_t end = rows - begin < kTileRows ? rows : begin + kTileRows;
    for (int64_t field = 0; field < kFields; ++field) {
      for (int64_t row = begin; row < end; ++row) {
        records[row * kFields + field] = fields[field * rows + row];
      }
    }
  }
}
