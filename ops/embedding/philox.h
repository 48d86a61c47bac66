// Philox4x32-10: random bits as a function of a counter and a key (Salmon, Moraes, Dror, Shaw,
// "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011). Nothing is carried from one number to
// the next, so any part of a table can be filled anywhere, in any order.

#ifndef DLRM_OPS_EMBEDDING_PHILOX_H_
#define DLRM_OPS_EMBEDDING_PHILOX_H_

#include <stdint.h>

namespace dlrm {

struct PhiloxKey {
  uint32_t low;
  uint32_t high;
};

// Four words for each of kBlocks counters (row, row >> 32, block + i, stream), i < kBlocks, as
// words[word][i]: the loops over i are independent, so that a compiler can lay them along vectors.
template <int kBlocks>
inline void Philox(PhiloxKey key, uint64_t row, uint32_t block, uint32_t stream,
                   uint32_t (*words)[kBlocks]) {
  for (int i = 0; i < kBlocks; ++i) {
    words[0][i] = static_cast<uint32_t>(row);
    words[1][i] = static_cast<uint32_t>(row >> 32);
    words[2][i] = block + static_cast<uint32_t>(i);
    words[3][i] = stream;
  }
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kBlocks; ++i) {
      const uint64_t a = uint64_t{0xd2511f53u} * words[0][i];
      const uint64_t b = uint64_t{0xcd9e8d57u} * words[2][i];
      words[0][i] = static_cast<uint32_t>(b >> 32) ^ words[1][i] ^ key.low;
      words[1][i] = static_cast<uint32_t>(b);
      words[2][i] = static_cast<uint32_t>(a >> 32) ^ words[3][i] ^ key.high;
      words[3][i] = static_cast<uint32_t>(a);
    }
    key.low += 0x9e3779b9u;
    key.high += 0xbb67ae85u;
  }
}

}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_PHILOX_H_
