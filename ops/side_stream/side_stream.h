// A second stream of a device, whose kernels run beside those of TensorFlow's compute stream. Needs
// CUDA, but no TensorFlow.
//
// TensorFlow's allocator assumes that all kernels run on the compute stream: memory that the host
// frees is handed out at once, because the next owner's kernels come later in that stream. So
//   - the side stream waits for the kernels that the compute stream has when Run is called: they
//     write the inputs, or still use memory that has been handed out since;
//   - all memory that the side stream uses is held until Join;
//   - Join lets the compute stream wait for the side stream, so that whoever gets the memory next,
//     or reads the results, comes after it.
#ifndef DLRM_OPS_SIDE_STREAM_SIDE_STREAM_H_
#define DLRM_OPS_SIDE_STREAM_SIDE_STREAM_H_

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_result.h"

namespace dlrm {

// The side stream of a device. Thread-safe.
class SideStream {
 public:
  // Owners of memory that kernels use.
  using Held = std::vector<std::shared_ptr<void>>;
  // Launches kernels on a stream.
  using Launch = std::function<cudaError_t(cudaStream_t)>;

  // The side stream of the process for `device`, whose other kernels run on `compute`. It lives
  // until the process ends: CUDA then frees its memory itself.
  static SideStream& Of(int device, cudaStream_t compute);
  ~SideStream() = delete;
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

  // Launches kernels that run after all that have been launched on either stream, and beside those
  // that are launched on the compute stream from now until Join. `held` owns all device memory that
  // they use, allocated before this call. Called with the device as the current one. `what` names
  // the kernels in errors.
  CudaResult Run(Held held, const Launch& launch, const char* what);

  // Lets all kernels that are launched on the compute stream from now on run after those of the
  // side stream, and releases what is held. Nothing is released if this fails: it may be repeated.
  CudaResult Join();

 private:
  explicit SideStream(cudaStream_t compute) : compute_(compute) {}
  CudaResult Create();

  const cudaStream_t compute_;
  std::mutex mu_;  // of the members below; held while kernels are launched, so that what is held
                   // and what has been launched agree
  cudaStream_t side_ = nullptr;
  cudaEvent_t ready_ = nullptr;  // on the compute stream, before the newest kernels of `side_`
  cudaEvent_t done_ = nullptr;   // on the side stream, after its newest kernels
  bool joined_ = true;           // nothing has been launched since the last Join
  Held held_;
};

}  // namespace dlrm

#endif  // DLRM_OPS_SIDE_STREAM_SIDE_STREAM_H_
