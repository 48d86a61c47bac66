// Memory rates of this machine, measured by loops that do nothing else: the limits that the
// benchmarks compare the kernels with. They share no code with the kernels, so that the comparison
// is independent.

#include <stdint.h>
#include <string.h>

#include <chrono>
#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace dlrm {
namespace {

// Runs work(thread) on `threads` threads at once; returns the seconds taken.
template <class Work>
double Seconds(int threads, const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(work, t);
  work(0);
  for (std::thread& other : others) other.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Copies with streaming stores, so that a byte written costs one memory transfer instead of two.
void CopyPastCaches(char* to, const char* from, size_t bytes) {
#if defined(__SSE2__)
  for (size_t i = 0; i + 16 <= bytes; i += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm_load_si128(reinterpret_cast<const __m128i*>(from + i)));
  }
  _mm_sfence();
#else
  memcpy(to, from, bytes);
#endif
}

// Visits `count` random rows: reads their words, or adds one to each word.
uint64_t VisitRows(uint64_t* table, int64_t rows, int64_t row_words, int64_t count, uint64_t seed,
                   bool write) {
  constexpr int kAhead = 12;
  uint64_t* ring[kAhead] = {};
  uint64_t state = seed, sum = 0;
  const auto next_row = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t row = static_cast<uint64_t>(
        (static_cast<unsigned __int128>(state) * static_cast<uint64_t>(rows)) >> 64);
    uint64_t* p = table + row * row_words;
    for (int64_t i = 0; i < row_words; i += 8) {
      if (write) {
        __builtin_prefetch(p + i, 1, 3);
      } else {
        __builtin_prefetch(p + i, 0, 3);
      }
    }
    return p;
  };
  for (auto& p : ring) p = next_row();
  for (int64_t k = 0; k < count; ++k) {
    uint64_t* p = ring[k % kAhead];
    if (write) {
      for (int64_t i = 0; i < row_words; ++i) p[i] += 1;
    } else {
      for (int64_t i = 0; i < row_words; ++i) sum += p[i];
    }
    ring[k % kAhead] = next_row();
  }
  return sum;
}

}  // namespace
}  // namespace dlrm

extern "C" {

// Copies `bytes` on `threads` threads and returns the seconds taken. Bytes per thread and both
// addresses must be multiples of 64.
__attribute__((visibility("default"))) double dlrm_copy_seconds(void* to, const void* from,
                                                                int64_t bytes, int threads) {
  const int64_t part = bytes / threads;
  return dlrm::Seconds(threads, [&](int t) {
    dlrm::CopyPastCaches(static_cast<char*>(to) + t * part,
                         static_cast<const char*>(from) + t * part, part);
  });
}

// Visits `count` random rows of `row_bytes` (a multiple of 64) in a table of `rows` on `threads`
// threads and returns the seconds taken. Rows are read or, if `write` is not 0, read and written
// back with one added to each 64-bit word (racy: two threads may update the same row).
__attribute__((visibility("default"))) double dlrm_row_seconds(void* table, int64_t rows,
                                                               int64_t row_bytes, int64_t count,
                                                               int threads, int write,
                                                               int64_t seed) {
  std::vector<uint64_t> sums(threads * 8);
  return dlrm::Seconds(threads, [&](int t) {
    sums[t * 8] = dlrm::VisitRows(static_cast<uint64_t*>(table), rows, row_bytes / 8,
                                  count / threads, seed * 1000 + t, write != 0);
  });
}
}
