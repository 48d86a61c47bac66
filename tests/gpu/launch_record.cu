// Records a thread's last launch for the timings (cuda_primitives.cuh), and the library's sources.
#include "cuda_primitives.cuh"

namespace dlrm::gpu {
namespace {

struct Launch {
  const void* kernel = nullptr;
  int64_t blocks = 0, threads = 0, resident = 0, shared_bytes = 0;
};
thread_local Launch newest;

}  // namespace

void record_launch(const void* kernel, int64_t blocks, int threads, int resident,
                   size_t shared_bytes) {
  newest = {kernel, blocks, threads, resident, static_cast<int64_t>(shared_bytes)};
}

}  // namespace dlrm::gpu

// Identifies the sources and structures that the library was built from.
extern "C" const char* dlrm_sources() { return DLRM_SOURCES; }

// out: blocks, threads per block, resident blocks per multiprocessor, dynamic shared memory per
// block, registers per thread, local memory per thread.
extern "C" int dlrm_newest_launch(int64_t* out) {
  const auto& launch = dlrm::gpu::newest;
  cudaFuncAttributes kernel = {};
  if (launch.kernel == nullptr) return cudaErrorInvalidValue;
  const cudaError_t status = cudaFuncGetAttributes(&kernel, launch.kernel);
  out[0] = launch.blocks;
  out[1] = launch.threads;
  out[2] = launch.resident;
  out[3] = launch.shared_bytes;
  out[4] = kernel.numRegs;
  out[5] = static_cast<int64_t>(kernel.localSizeBytes);
  return status;
}
