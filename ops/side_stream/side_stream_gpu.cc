#include "side_stream/side_stream.h"

#include <iterator>
#include <map>
#include <utility>

namespace dlrm {

SideStream& SideStream::Of(int device, cudaStream_t compute) {
  static auto& mu = *new std::mutex;
  static auto& all = *new std::map<std::pair<int, cudaStream_t>, SideStream*>;
  std::lock_guard<std::mutex> lock(mu);
  SideStream*& stream = all[{device, compute}];
  if (stream == nullptr) stream = new SideStream(compute);
  return *stream;
}

CudaResult SideStream::Create() {
  // In this order, so that a call after a failed one continues.
  for (cudaEvent_t* event : {&ready_, &done_}) {
    if (*event != nullptr) continue;
    DLRM_RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(event, cudaEventDisableTiming),
                              "creating an event of the side stream");
  }
  if (side_ == nullptr) {
    DLRM_RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&side_, cudaStreamNonBlocking),
                              "creating the side stream");
  }
  return {};
}

CudaResult SideStream::Run(Held held, const Launch& launch, const char* what) {
  std::lock_guard<std::mutex> lock(mu_);
  const CudaResult created = Create();
  if (created.code != cudaSuccess) return created;
  DLRM_RETURN_IF_CUDA_ERROR(cudaEventRecord(ready_, compute_),
                            "recording what the side stream waits for");
  DLRM_RETURN_IF_CUDA_ERROR(cudaStreamWaitEvent(side_, ready_, 0),
                            "ordering the side stream after the compute stream");
  // Also if the launch fails: some of its kernels may have been launched.
  held_.insert(held_.end(), std::make_move_iterator(held.begin()),
               std::make_move_iterator(held.end()));
  joined_ = false;
  return {launch(side_), what};
}

CudaResult SideStream::Join() {
  Held released;  // destroyed without the lock: owners may take locks of their own
  std::lock_guard<std::mutex> lock(mu_);
  if (joined_) return {};
  DLRM_RETURN_IF_CUDA_ERROR(cudaEventRecord(done_, side_), "recording the side stream's work");
  DLRM_RETURN_IF_CUDA_ERROR(cudaStreamWaitEvent(compute_, done_, 0),
                            "ordering the compute stream after the side stream");
  joined_ = true;
  released.swap(held_);
  return {};
}

}  // namespace dlrm
