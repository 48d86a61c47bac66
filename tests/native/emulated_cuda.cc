#include "emulated_cuda.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

// The types behind CUDA's handles.
struct CUevent_st {
  int64_t recorded = 0;  // records that were launched
  int64_t reached = 0;   // of those, the newest that has run
  bool destroyed = false;
};

namespace {

struct Work {
  std::function<void()> run;
  cudaEvent_t event = nullptr;  // a wait, if not null, until `event` has reached `target`
  int64_t target = 0;
  const char* pinned = nullptr;  // memory that `run` reads
};

}  // namespace

struct CUstream_st {
  int device = 0;
  bool compute = false;
  bool stalled = false;  // for the moment
  std::deque<Work> queue;
};

namespace emulated_cuda {
namespace {

// Recursive, because kernels run under it.
std::recursive_mutex mu;
std::mt19937_64 generator;
Omit omitted;
double failures;
bool unloaded;
std::vector<std::unique_ptr<CUstream_st>> streams;
std::vector<std::unique_ptr<CUevent_st>> events;  // kept: others may still refer to them
std::map<char*, std::vector<char>> pinned_buffers;
int64_t compute_waits;
thread_local int current_device = 0;

using Lock = std::lock_guard<std::recursive_mutex>;

void Require(bool condition, const char* message) {
  if (condition) return;
  std::printf("emulated CUDA: %s\n", message);
  std::exit(3);
}

bool Chance(double probability) {
  return std::uniform_real_distribution<>()(generator) < probability;
}

bool Ready(const CUstream_st& stream) {
  if (stream.queue.empty()) return false;
  const Work& next = stream.queue.front();
  return next.event == nullptr || next.event->reached >= next.target;
}

// Runs the first work of a random stream that is ready. Returns false if there is none.
bool RunOne(bool even_if_stalled) {
  std::vector<CUstream_st*> ready;
  for (const auto& stream : streams) {
    if (Ready(*stream) && (even_if_stalled || !stream->stalled)) ready.push_back(stream.get());
  }
  if (ready.empty()) return false;
  CUstream_st* stream = ready[generator() % ready.size()];
  const Work work = std::move(stream->queue.front());
  stream->queue.pop_front();
  if (work.run) work.run();
  return true;
}

template <class Condition>
void RunUntil(Condition condition) {
  while (!condition()) Require(RunOne(true), "deadlock: the host waits for work that cannot run");
}

// Called first by each emulated function.
cudaError_t Enter() {
  if (unloaded) return cudaErrorCudartUnloading;
  Progress();
  return Chance(failures) ? cudaErrorLaunchFailure : cudaSuccess;
}

#define ENTER()  \
  Lock lock(mu); \
  if (const cudaError_t code = Enter(); code != cudaSuccess) return code

}  // namespace

void Start(uint64_t seed, Omit omit) {
  generator.seed(seed);
  omitted = omit;
}

cudaStream_t CreateStream(int device) {
  Lock lock(mu);
  streams.push_back(std::make_unique<CUstream_st>());
  streams.back()->device = device;
  streams.back()->compute = true;
  return streams.back().get();
}

void Launch(cudaStream_t stream, std::function<void()> kernel) {
  Lock lock(mu);
  Progress();
  stream->queue.push_back({std::move(kernel)});
}

void Progress() {
  Lock lock(mu);
  // Streams stall for some time, so that each is far behind the host and the others now and then.
  for (const auto& stream : streams) {
    if (Chance(0.03)) stream->stalled = !stream->stalled;
  }
  for (int steps = generator() % 4; steps > 0 && RunOne(false); --steps) {
  }
}

void Finish() {
  Lock lock(mu);
  RunUntil([] {
    for (const auto& stream : streams) {
      if (!stream->queue.empty()) return false;
    }
    return true;
  });
}

void FailCalls(double probability) {
  Lock lock(mu);
  failures = probability;
}

void Unload() {
  Lock lock(mu);
  unloaded = true;
}

int PinnedBuffers() {
  Lock lock(mu);
  return static_cast<int>(pinned_buffers.size());
}

int64_t ComputeWaits() {
  Lock lock(mu);
  return compute_waits;
}

}  // namespace emulated_cuda

using namespace emulated_cuda;

extern "C" {

// These two never fail by chance: the code under test could do nothing about it.
cudaError_t cudaGetDevice(int* device) {
  if (unloaded) return cudaErrorCudartUnloading;
  *device = current_device;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (unloaded) return cudaErrorCudartUnloading;
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  ENTER();
  std::vector<char> buffer(bytes);
  *pointer = buffer.data();
  pinned_buffers.emplace(buffer.data(), std::move(buffer));
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* pointer) {
  Lock lock(mu);
  if (unloaded) return cudaErrorCudartUnloading;
  const auto buffer = pinned_buffers.find(static_cast<char*>(pointer));
  Require(buffer != pinned_buffers.end(), "unknown pinned memory was freed");
  // With this omission the copies read bytes that are no batch's.
  if (omitted == Omit::kHostWaits) {
    std::fill(buffer->second.begin(), buffer->second.end(), '\0');
    return cudaSuccess;
  }
  for (const auto& stream : streams) {
    for (const Work& work : stream->queue) {
      Require(work.pinned != pointer, "pinned memory was freed before a copy had read it");
    }
  }
  pinned_buffers.erase(buffer);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  ENTER();
  Require(flags == cudaStreamNonBlocking, "expected a stream that does not wait for stream 0");
  *stream = CreateStream(current_device);
  (*stream)->compute = false;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(mu);
  if (unloaded) return cudaErrorCudartUnloading;
  RunUntil([stream] { return stream->queue.empty(); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  ENTER();
  events.push_back(std::make_unique<CUevent_st>());
  *event = events.back().get();
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock(mu);
  Require(!event->destroyed, "an event was destroyed twice");
  event->destroyed = true;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  ENTER();
  Require(!event->destroyed, "a destroyed event was recorded");
  Require(current_device == stream->device,
          "an event was recorded while another device is current");
  const bool first = event->recorded == 0;
  if (stream->compute && omitted == (first ? Omit::kFirstUseRecords : Omit::kLaterUseRecords)) {
    return cudaSuccess;
  }
  if (!stream->compute && omitted == Omit::kSideRecords) return cudaSuccess;
  const int64_t number = ++event->recorded;
  stream->queue.push_back({[event, number] { event->reached = number; }});
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  ENTER();
  Require(!event->destroyed, "the host waits for a destroyed event");
  if (omitted == Omit::kHostWaits) return cudaSuccess;
  RunUntil([event] { return event->reached == event->recorded; });
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  ENTER();
  Require(!event->destroyed, "a stream waits for a destroyed event");
  compute_waits += stream->compute;
  if (omitted == (stream->compute ? Omit::kComputeWaits : Omit::kCopyWaits)) return cudaSuccess;
  Work wait;
  wait.event = event;
  wait.target = event->recorded;
  stream->queue.push_back(std::move(wait));
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  ENTER();
  Require(kind == cudaMemcpyHostToDevice, "expected a copy from the host to the device");
  Require(pinned_buffers.count(static_cast<char*>(const_cast<void*>(from))) == 1,
          "expected a copy from pinned memory");
  // In two pieces: others may see the memory half written.
  const size_t half = bytes / 2;
  for (const auto& [begin, count] : {std::pair{size_t{0}, half}, std::pair{half, bytes - half}}) {
    Work copy;
    copy.pinned = static_cast<const char*>(from);
    copy.run = [=, begin = begin, count = count] {
      std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin, count);
    };
    stream->queue.push_back(std::move(copy));
  }
  return cudaSuccess;
}

}  // extern "C"
