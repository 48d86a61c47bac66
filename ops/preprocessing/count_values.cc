// How often each value of a column occurs, where the modulo rule leaves few enough for an array.
#include "preprocessing/preprocessing.h"

namespace {

// Counters fetched from memory at a time.
constexpr int64_t kAtOnce = 128;

}  // namespace

void dlrm_count_values(const uint32_t* values, const uint8_t* validity, int64_t first_bit,
                       int64_t n, uint32_t max_rows, int64_t* counters) {
  uint32_t reduced[kAtOnce];
  for (int64_t begin = 0; begin < n; begin += kAtOnce) {
    const int64_t count = n - begin < kAtOnce ? n - begin : kAtOnce;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t bit = first_bit + begin + i;
      const bool missing = validity != nullptr && (validity[bit >> 3] >> (bit & 7) & 1) == 0;
      // What lies under a null is not defined.
      reduced[i] = missing ? 0 : values[begin + i] % max_rows;
      __builtin_prefetch(counters + reduced[i], 1);
    }
    for (int64_t i = 0; i < count; ++i) ++counters[reduced[i]];
  }
}
