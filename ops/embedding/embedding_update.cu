// The launchers of embedding updates: SGD with atomics (embedding_sgd.cu, for bags
// embedding_bags_sgd.cu) or sorted places (embedding_sorted.cu).
#include <cstring>

#include "embedding/embedding_bags.cuh"

namespace dlrm::gpu {
namespace {

bool takes_atomics(const DlrmEmbeddingUpdate& request) {
  return request.deterministic == 0 &&
         request.optimizer == dlrm_row_optimizer(Sgd<DeviceFloat>::kName);
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" {

int dlrm_row_optimizer(const char* name) {
  dlrm::RowRuleFacts facts[dlrm::RowRules::kCount];
  dlrm::RowRules::Facts<dlrm::gpu::DeviceFloat>(facts);
  for (int i = 0; i < dlrm::RowRules::kCount; ++i) {
    if (std::strcmp(facts[i].name, name) == 0) return i;
  }
  return -1;
}

cudaError_t dlrm_embedding_workspace_bytes(const DlrmEmbeddingBatch* batch,
                                           const DlrmEmbeddingUpdate* update, size_t* bytes) {
  *bytes = 0;
  if (!dlrm::gpu::takes_atomics(*update)) return dlrm::gpu::sorted_workspace_bytes(*batch, bytes);
  return dlrm::gpu::has_bags(*batch) ? dlrm::gpu::bag_sgd_workspace_bytes(*batch, bytes)
                                     : dlrm::gpu::sgd_workspace_bytes(*batch, bytes);
}

cudaError_t dlrm_embedding_update(const DlrmEmbeddingBatch* batch,
                                  const DlrmEmbeddingUpdate* update, const void* gradients,
                                  void* rows, void* workspace, size_t workspace_bytes,
                                  cudaStream_t stream) {
  if (update->learning_rate == nullptr || update->scale == nullptr) return cudaErrorInvalidValue;
  const auto with_atomics =
      dlrm::gpu::has_bags(*batch) ? dlrm::gpu::bag_sgd_with_atomics : dlrm::gpu::sgd_with_atomics;
  const auto apply = dlrm::gpu::takes_atomics(*update) ? with_atomics : dlrm::gpu::sorted_update;
  return apply(*batch, *update, gradients, rows, workspace, workspace_bytes, stream);
}

}  // extern "C"
