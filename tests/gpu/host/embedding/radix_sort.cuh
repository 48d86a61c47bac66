// Replaces ops/embedding/radix_sort.cuh when the kernels are compiled for the CPU.
#ifndef DLRM_TESTS_GPU_HOST_EMBEDDING_RADIX_SORT_CUH_
#define DLRM_TESTS_GPU_HOST_EMBEDDING_RADIX_SORT_CUH_

#include <algorithm>
#include <numeric>
#include <vector>

namespace dlrm::gpu {

inline cudaError_t sort_pairs(void* temporary, size_t& temporary_bytes, const uint32_t* keys,
                              uint32_t* sorted_keys, const uint32_t* values,
                              uint32_t* sorted_values, int count, int key_bits, cudaStream_t) {
  if (temporary == nullptr) {
    temporary_bytes = 1;
    return cudaSuccess;
  }
  // Like the device's sort, ignores bits above key_bits.
  const uint32_t mask = key_bits >= 32 ? ~0u : (1u << key_bits) - 1;
  std::vector<int> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return (keys[a] & mask) < (keys[b] & mask); });
  for (int k = 0; k < count; ++k) {
    sorted_keys[k] = keys[order[static_cast<size_t>(k)]];
    sorted_values[k] = values[order[static_cast<size_t>(k)]];
  }
  return cudaSuccess;
}

}  // namespace dlrm::gpu

#endif  // DLRM_TESTS_GPU_HOST_EMBEDDING_RADIX_SORT_CUH_
