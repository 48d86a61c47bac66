// The buffers through which batches reach a GPU: pinned memory, device memory and the order of
// copies and kernels. Needs CUDA, but no TensorFlow.
//
// Two streams use a slot's buffers: batches are copied on a stream of their own, while the kernels
// that read them run on the compute stream. Three waits keep them in order:
//   - the host waits for the slot's last copy (`copied`) before it overwrites the pinned memory;
//   - the copy stream waits for the kernels that read the slot's last batch (`released`);
//   - the compute stream waits for the copy (`copied`) of a batch, but only in Await.
#ifndef DLRM_OPS_UPLOAD_STAGING_SLOTS_H_
#define DLRM_OPS_UPLOAD_STAGING_SLOTS_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>

#include "cuda_result.h"

namespace dlrm {

// Device memory, freed with its owner.
struct DeviceMemory {
  char* data = nullptr;
  std::shared_ptr<void> owner;
};

// The slots of a device. Thread-safe.
class StagingSlots {
 public:
  struct Slot;
  // Returns memory that kernels which are already in the compute stream may still use; data is null
  // on failure.
  using Allocate = std::function<DeviceMemory(int64_t bytes)>;
  // Writes a batch to pinned memory.
  using Fill = std::function<void(char* pinned)>;

  // The slots of the process for `device`, whose kernels run on `compute`. They live until the
  // process ends: packages may outlive all static objects, and CUDA frees its memory itself.
  static StagingSlots& Of(int device, cudaStream_t compute);
  ~StagingSlots() = delete;
  StagingSlots(const StagingSlots&) = delete;
  StagingSlots& operator=(const StagingSlots&) = delete;

  // Starts the upload of `bytes` (not 0) bytes, which `fill` writes. The slot is the caller's until
  // Release. Called with the device as the current one.
  CudaResult Upload(int64_t bytes, const Allocate& allocate, const Fill& fill, Slot** slot);

  // Device memory of a slot's batch.
  static char* DeviceData(const Slot* slot);

  // The slot with a batch at this address, or null if there is none.
  Slot* Find(const void* device_data);

  // Makes all kernels that are launched from now on wait for the slot's batch.
  CudaResult Await(const Slot* slot);

  // Returns the slot, from any thread, when all kernels that read its batch have been launched.
  // Silent if CUDA has been shut down.
  void Release(Slot* slot);

 private:
  using Slots = std::list<std::unique_ptr<Slot>>;

  StagingSlots(int device, cudaStream_t compute);
  CudaResult Acquire(int64_t bytes, const Allocate& allocate, Slot** slot);
  CudaResult Create(int64_t bytes, const Allocate& allocate, std::unique_ptr<Slot>* slot);
  CudaResult Copy(Slot* slot, int64_t bytes, const Fill& fill);
  void MakeFree(Slot* slot);

  const int device_;
  const cudaStream_t compute_;
  std::mutex mu_;  // of the members below; not held while waiting for the device
  cudaStream_t copy_ = nullptr;
  Slots used_;
  Slots free_;  // in order of release
};

}  // namespace dlrm

#endif  // DLRM_OPS_UPLOAD_STAGING_SLOTS_H_
