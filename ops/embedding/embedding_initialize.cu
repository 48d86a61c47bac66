// Initialises rows of a table on the device with random numbers: Philox4x32-10 (Salmon et al., SC
// 2011) of the counter (row, row >> 32, column / 4, table) with key `seed`, like the CPU kernel.
// Each thread computes the four columns of one counter.
#include "embedding/embedding_rows.cuh"

namespace dlrm::gpu {
namespace {

struct RowNumbers {
  int64_t count;  // rows to fill
  int64_t first;  // number of the first one in its table
  int64_t stride;
  uint32_t table;
  uint32_t key[2];
};

__device__ __forceinline__ void random_words(const RowNumbers& numbers, uint64_t row,
                                             uint32_t block, uint32_t (&words)[4]) {
  words[0] = static_cast<uint32_t>(row);
  words[1] = static_cast<uint32_t>(row >> 32);
  words[2] = block;
  words[3] = numbers.table;
  uint32_t low = numbers.key[0], high = numbers.key[1];
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t a_high = __umulhi(0xd2511f53u, words[0]), a_low = 0xd2511f53u * words[0];
    const uint32_t b_high = __umulhi(0xcd9e8d57u, words[2]), b_low = 0xcd9e8d57u * words[2];
    words[0] = b_high ^ words[1] ^ low;
    words[1] = b_low;
    words[2] = a_high ^ words[3] ^ high;
    words[3] = a_low;
    low += 0x9e3779b9u;
    high += 0xbb67ae85u;
  }
}

// kWide: rows are multiples of four columns and 16-byte aligned.
template <bool kWide>
__global__ void __launch_bounds__(256)
    initialize_kernel(RowNumbers numbers, int64_t dim, float limit, float* __restrict__ rows) {
  const int64_t blocks = (dim + 3) / 4;
  const int64_t total = numbers.count * blocks;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < total;
       k += threads) {
    const int64_t row = k / blocks, block = k - row * blocks;
    uint32_t words[4];
    random_words(numbers, static_cast<uint64_t>(numbers.first + row * numbers.stride),
                 static_cast<uint32_t>(block), words);
    float values[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      // 24 bits, exact in float32: steps of 2^-23 over [-1, 1).
      const float unit = static_cast<float>(words[w] >> 8) * (1.0f / 8388608.0f) - 1.0f;
      values[w] = __fmul_rn(limit, unit);
    }
    float* out = rows + row * dim + block * 4;
    if constexpr (kWide) {
      *reinterpret_cast<float4*>(out) = make_float4(values[0], values[1], values[2], values[3]);
    } else {
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if (block * 4 + w < dim) out[w] = values[w];
      }
    }
  }
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" cudaError_t dlrm_embedding_initialize(float* rows, int64_t dim, int64_t count,
                                                 int64_t first_row, int64_t row_stride,
                                                 int64_t table_index, int64_t seed, float limit,
                                                 cudaStream_t stream) {
  if (dim < 1 || count < 0 || first_row < 0 || row_stride < 1 || table_index < 0 ||
      table_index > int64_t{0xffffffff}) {
    return cudaErrorInvalidValue;
  }
  const auto bits = static_cast<uint64_t>(seed);
  const dlrm::gpu::RowNumbers numbers{
      count,
      first_row,
      row_stride,
      static_cast<uint32_t>(table_index),
      {static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32)}};
  const int64_t blocks = (count * ((dim + 3) / 4) + 255) / 256;
  const auto kernel = dim % 4 == 0 && dlrm::gpu::aligned(rows, 16)
                          ? dlrm::gpu::initialize_kernel<true>
                          : dlrm::gpu::initialize_kernel<false>;
  return dlrm::gpu::launch(kernel, blocks, 256, 0, stream, numbers, dim, limit, rows);
}
