// Stable sort of (row, place) pairs by row on the device.
#ifndef DLRM_OPS_EMBEDDING_RADIX_SORT_CUH_
#define DLRM_OPS_EMBEDDING_RADIX_SORT_CUH_

#include <cub/device/device_radix_sort.cuh>

namespace dlrm::gpu {

// With temporary == nullptr only sets temporary_bytes. Keys have `key_bits` used bits.
inline cudaError_t sort_pairs(void* temporary, size_t& temporary_bytes, const uint32_t* keys,
                              uint32_t* sorted_keys, const uint32_t* values,
                              uint32_t* sorted_values, int count, int key_bits,
                              cudaStream_t stream) {
  return cub::DeviceRadixSort::SortPairs(temporary, temporary_bytes, keys, sorted_keys, values,
                                         sorted_values, count, 0, key_bits, stream);
}

}  // namespace dlrm::gpu

#endif  // DLRM_OPS_EMBEDDING_RADIX_SORT_CUH_
