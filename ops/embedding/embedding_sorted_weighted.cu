// The sorted update of bags that are pooled by the mean: gradients have factors.
#include "embedding/embedding_sorted.cuh"

namespace dlrm::gpu {

cudaError_t apply_sorted_weighted(const DlrmEmbeddingBatch& batch,
                                  const DlrmEmbeddingUpdate& request, const SortedPlaces& sorted,
                                  const void* gradients, void* rows, cudaStream_t stream) {
  return apply_sorted<true>(batch, request, sorted, gradients, rows, stream);
}

}  // namespace dlrm::gpu
