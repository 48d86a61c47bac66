// What this machine's memory gives to loops that do nothing else: the limits that the benchmarks
// hold the kernels against. Written apart from the kernels, so that neither flatters the other.

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

// Seconds that work(thread) takes on `threads` threads at once.
template <class Work>
double Seconds(int threads, const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(work, t);
  work(0);
  for (std::thread& other : others) other.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Copies past the caches, so that a byte written costs one transfer and not two.
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

// Visits `count` rows in random order: reads each, or adds to each of its numbers.
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

// Seconds for a copy of `bytes` (a multiple of 64 a thread; both addresses too) on `threads`
// threads.
__attribute__((visibility("default"))) double dlrm_copy_seconds(void* to, const void* from,
                                                                int64_t bytes, int threads) {
  const int64_t part = bytes / threads;
  return dlrm::Seconds(threads, [&](int t) {
    dlrm::CopyPastCaches(static_cast<char*>(to) + t * part,
                         static_cast<const char*>(from) + t * part, part);
  });
}

// Seconds for `count` random rows of `row_bytes` (a multiple of 64) in a table of `rows` on
// `threads` threads: rows that are read, or, if `write` is not 0, read and written back with one
// added to each 64-bit word (threads may meet at a row: its words are then anything).
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
