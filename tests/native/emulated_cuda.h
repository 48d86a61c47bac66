// A CUDA runtime without a device: streams, events and pinned memory for tests of host code.
//
// Work in a stream runs late: not when it is launched, but some calls later, or when the host waits
// for it. Any order may occur that streams, events and waits permit. Device memory is host memory.
// Misuse, e.g. freeing pinned memory that a copy has yet to read, ends the process with a message.
#ifndef DLRM_TESTS_NATIVE_EMULATED_CUDA_H_
#define DLRM_TESTS_NATIVE_EMULATED_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

namespace emulated_cuda {

// Calls that do nothing, as if the code under test omitted them.
enum class Omit {
  kNothing,
  kHostWaits,        // cudaEventSynchronize
  kComputeWaits,     // cudaStreamWaitEvent on streams of CreateStream
  kCopyWaits,        // cudaStreamWaitEvent on streams of cudaStreamCreateWithFlags
  kFirstUseRecords,  // an event's first cudaEventRecord on a stream of CreateStream
  kLaterUseRecords,  // its later ones
  kSideRecords,      // cudaEventRecord on streams of cudaStreamCreateWithFlags
};

// Begins a new run.
void Start(uint64_t seed, Omit omit);

// Creates a stream of a device, as TensorFlow's compute stream.
cudaStream_t CreateStream(int device);

// Appends a kernel to a stream.
void Launch(cudaStream_t stream, std::function<void()> kernel);

// Lets the device run some work that may run, perhaps none.
void Progress();

// Waits for all streams.
void Finish();

// Lets each call fail with this probability.
void FailCalls(double probability);

// From now on every call fails, as while a process exits.
void Unload();

int PinnedBuffers();     // allocated and not freed
int64_t ComputeWaits();  // waits of streams of CreateStream

}  // namespace emulated_cuda

#endif  // DLRM_TESTS_NATIVE_EMULATED_CUDA_H_
