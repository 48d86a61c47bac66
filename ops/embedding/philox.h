// Philox4x32-10: random bits as a function of a counter and a key (Salmon, Moraes, Dror, Shaw,
// "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011). It keeps no state
// between numbers, so any part of a table can be filled anywhere, in any order.

#ifndef DLRM_OPS_EMBEDDING_PHILOX_H_
#define DLRM_OPS_EMBEDDING_PHILOX_H_

#include <stdint.h>
#include <string.h>

#include "embedding/embedding_cpu.h"

namespace dlrm {

namespace {

// Four words for each of kBlocks counters (row, row >> 32, block + i, stream), i < kBlocks, as
// words[word][i]: iterations over i are independent, so that a compiler can vectorise the loop.
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

// Elements [0, dimension) of one row of a table: U[-limit, limit) in steps of limit * 2^-23.
// Each file that includes this has its own copy, compiled with its flags.
void FillRow(PhiloxKey key, uint64_t row, uint32_t table_index, float limit, int64_t dimension,
             float* out) {
  constexpr int kBlocks = 16;  // counters per iteration: 64 elements
  uint32_t words[4][kBlocks];
  float values[4 * kBlocks];
  for (int64_t c = 0; c < dimension; c += 4 * kBlocks) {
    Philox<kBlocks>(key, row, static_cast<uint32_t>(c / 4), table_index, words);
    for (int word = 0; word < 4; ++word) {
      for (int i = 0; i < kBlocks; ++i) {
        const float unit =
            static_cast<float>(static_cast<int32_t>(words[word][i] >> 8)) * (1.0f / 8388608.0f) -
            1.0f;
        values[4 * i + word] = limit * unit;
      }
    }
    const int64_t count = dimension - c < 4 * kBlocks ? dimension - c : 4 * kBlocks;
    memcpy(out + c, values, count * sizeof(float));
  }
}

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_PHILOX_H_
