#include "upload/staging_slots.h"

#include <algorithm>
#include <map>
#include <utility>

namespace dlrm {

struct StagingSlots::Slot {
  int64_t capacity = 0;
  char* pinned = nullptr;
  DeviceMemory device;
  cudaEvent_t copied = nullptr;    // on the copy stream, after the newest copy
  cudaEvent_t released = nullptr;  // on the compute stream, after the newest batch's last kernel

  ~Slot() {
    if (copied != nullptr) cudaEventDestroy(copied);
    if (released != nullptr) cudaEventDestroy(released);
    if (pinned != nullptr) cudaFreeHost(pinned);
  }
};

StagingSlots::StagingSlots(int device, cudaStream_t compute) : device_(device), compute_(compute) {}

StagingSlots& StagingSlots::Of(int device, cudaStream_t compute) {
  static auto& mu = *new std::mutex;
  static auto& all = *new std::map<std::pair<int, cudaStream_t>, StagingSlots*>;
  std::lock_guard<std::mutex> lock(mu);
  StagingSlots*& slots = all[{device, compute}];
  if (slots == nullptr) slots = new StagingSlots(device, compute);
  return *slots;
}

char* StagingSlots::DeviceData(const Slot* slot) { return slot->device.data; }

CudaResult StagingSlots::Upload(int64_t bytes, const Allocate& allocate, const Fill& fill,
                                Slot** slot) {
  Slot* acquired = nullptr;
  CudaResult result = Acquire(bytes, allocate, &acquired);
  if (result.code != cudaSuccess) return result;
  result = Copy(acquired, bytes, fill);
  if (result.code != cudaSuccess) {
    // `copied` may not cover the newest copy.
    cudaStreamSynchronize(copy_);
    MakeFree(acquired);
    return result;
  }
  *slot = acquired;
  return result;
}

CudaResult StagingSlots::Acquire(int64_t bytes, const Allocate& allocate, Slot** slot) {
  std::unique_ptr<Slot> too_small;
  {
    std::lock_guard<std::mutex> lock(mu_);
    if (copy_ == nullptr) {
      DLRM_RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&copy_, cudaStreamNonBlocking),
                                "creating the stream of uploads");
    }
    // The smallest that suffices; of equal ones the first released, whose kernels end first.
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if ((*it)->capacity < bytes) continue;
      if (best == free_.end() || (*it)->capacity < (*best)->capacity) best = it;
    }
    if (best != free_.end()) {
      *slot = best->get();
      used_.splice(used_.end(), free_, best);
      return {};
    }
    if (!free_.empty()) {
      too_small = std::move(free_.front());
      free_.pop_front();
    }
  }
  int64_t capacity = bytes;
  if (too_small != nullptr) {
    // With a margin, lest batches of slowly growing sizes each replace a slot.
    capacity = std::max(capacity, too_small->capacity + too_small->capacity / 2);
    // The newest copy may still read the pinned memory and write the device memory.
    const cudaError_t code = cudaEventSynchronize(too_small->copied);
    if (code != cudaSuccess) {
      std::lock_guard<std::mutex> lock(mu_);
      free_.push_back(std::move(too_small));
      return {code, "waiting for an upload"};
    }
    too_small.reset();
  }
  std::unique_ptr<Slot> created;
  const CudaResult result = Create(capacity, allocate, &created);
  if (result.code != cudaSuccess) return result;
  *slot = created.get();
  std::lock_guard<std::mutex> lock(mu_);
  used_.push_back(std::move(created));
  return {};
}

CudaResult StagingSlots::Create(int64_t bytes, const Allocate& allocate,
                                std::unique_ptr<Slot>* slot) {
  auto created = std::make_unique<Slot>();
  created->capacity = bytes;
  created->device = allocate(bytes);
  if (created->device.data == nullptr) {
    return {cudaErrorMemoryAllocation, "allocating device memory for uploads"};
  }
  DLRM_RETURN_IF_CUDA_ERROR(
      cudaHostAlloc(reinterpret_cast<void**>(&created->pinned), bytes, cudaHostAllocDefault),
      "allocating pinned memory for uploads");
  // The host sleeps rather than spins: other threads may need the core.
  constexpr unsigned kFlags = cudaEventDisableTiming | cudaEventBlockingSync;
  DLRM_RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&created->copied, kFlags),
                            "creating an event of uploads");
  DLRM_RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&created->released, kFlags),
                            "creating an event of uploads");
  DLRM_RETURN_IF_CUDA_ERROR(cudaEventRecord(created->released, compute_),
                            "recording the last use of memory for uploads");
  *slot = std::move(created);
  return {};
}

CudaResult StagingSlots::Copy(Slot* slot, int64_t bytes, const Fill& fill) {
  DLRM_RETURN_IF_CUDA_ERROR(cudaEventSynchronize(slot->copied), "waiting for an upload");
  fill(slot->pinned);
  DLRM_RETURN_IF_CUDA_ERROR(cudaStreamWaitEvent(copy_, slot->released, 0),
                            "ordering an upload after the kernels of an earlier batch");
  DLRM_RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(slot->device.data, slot->pinned, bytes, cudaMemcpyHostToDevice, copy_),
      "uploading a batch");
  DLRM_RETURN_IF_CUDA_ERROR(cudaEventRecord(slot->copied, copy_), "recording an upload");
  return {};
}

StagingSlots::Slot* StagingSlots::Find(const void* device_data) {
  std::lock_guard<std::mutex> lock(mu_);
  for (const auto& slot : used_) {
    if (slot->device.data == device_data) return slot.get();
  }
  return nullptr;
}

CudaResult StagingSlots::Await(const Slot* slot) {
  DLRM_RETURN_IF_CUDA_ERROR(cudaStreamWaitEvent(compute_, slot->copied, 0),
                            "waiting for a batch's upload");
  return {};
}

void StagingSlots::Release(Slot* slot) {
  // The thread's device is restored, because TensorFlow relies on it.
  int current = device_;
  cudaGetDevice(&current);
  if (current != device_) cudaSetDevice(device_);
  const cudaError_t code = cudaEventRecord(slot->released, compute_);
  if (current != device_) cudaSetDevice(current);
  // Without the event another batch could overwrite this one too early: the slot is not used again.
  if (code == cudaSuccess) MakeFree(slot);
}

void StagingSlots::MakeFree(Slot* slot) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = std::find_if(used_.begin(), used_.end(),
                                  [slot](const auto& used) { return used.get() == slot; });
  free_.splice(free_.end(), used_, found);
}

}  // namespace dlrm
