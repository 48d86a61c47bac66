// Random uploads through StagingSlots on the emulated CUDA runtime: does each kernel read its
// batch?
//
//   staging_slots_test SEED [OMIT]    OMIT: number of an emulated_cuda::Omit
//
// Prints the number of kernels and of those that read wrong bytes. The exit code is 0 if all were
// right, 1 if some were not, 2 if anything else is wrong.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "emulated_cuda.h"
#include "upload/staging_slots.h"

namespace {

using dlrm::CudaResult;
using dlrm::DeviceMemory;
using dlrm::StagingSlots;

constexpr int kDevice = 1;  // not the default, to find calls on the wrong device
constexpr size_t kMaxLive = 3;

int64_t kernels = 0, wrong = 0;  // guarded by the emulation's lock, under which kernels run

void Require(bool condition, const char* message) {
  if (condition) return;
  std::printf("%s\n", message);
  std::exit(2);
}

std::vector<char> RandomBytes(std::mt19937_64& generator, size_t count) {
  std::vector<char> bytes(count);
  for (char& byte : bytes) byte = static_cast<char>(generator());
  return bytes;
}

// Device memory of an allocator that, like TensorFlow's, orders its users by the compute stream:
// earlier users' kernels may still write it when it is handed out, and when it is freed, later
// users write and read it.
class StreamOrderedMemory {
 public:
  StreamOrderedMemory(cudaStream_t compute, size_t bytes)
      : compute_(compute), bytes_(std::make_shared<std::vector<char>>(bytes)) {
    static std::mutex mu;
    static auto& all = *new std::vector<std::shared_ptr<std::vector<char>>>;
    std::lock_guard<std::mutex> lock(mu);
    all.push_back(bytes_);
    Use();
  }
  ~StreamOrderedMemory() { Use(); }
  char* data() { return bytes_->data(); }

 private:
  // The kernels of another user: write, then read.
  void Use() {
    emulated_cuda::Launch(compute_, [bytes = bytes_] { bytes->assign(bytes->size(), 'x'); });
    emulated_cuda::Launch(compute_, [bytes = bytes_] {
      ++kernels;
      wrong += *bytes != std::vector<char>(bytes->size(), 'x');
    });
  }

  cudaStream_t compute_;
  std::shared_ptr<std::vector<char>> bytes_;  // kept, because a copy that is too late writes it
};

// A user of the slots: uploads, launches kernels and releases, in random order.
class User {
 public:
  User(cudaStream_t compute, uint64_t seed)
      : compute_(compute), slots_(StagingSlots::Of(kDevice, compute)), generator_(seed) {}

  void Step(size_t max_bytes) {
    const size_t action = generator_() % 4;
    if (action == 0 && live_.size() < kMaxLive) {
      Upload(1 + generator_() % max_bytes);
    } else if (action == 1 && !live_.empty()) {
      Release(generator_() % live_.size());
    } else if (!live_.empty()) {
      Read(live_[generator_() % live_.size()]);
    }
    emulated_cuda::Progress();
  }

  // Lets each CUDA call within Upload fail with this probability.
  void FailUploads(double probability) { failures_ = probability; }

  void ReleaseAll() {
    while (!live_.empty()) Release(0);
  }

  int64_t uploads() const { return uploads_; }
  int64_t errors() const { return errors_; }
  int64_t awaited() const { return awaited_; }

 private:
  struct Batch {
    StagingSlots::Slot* slot;
    std::shared_ptr<std::vector<char>> expected;
    bool received;
  };

  void Upload(size_t bytes) {
    cudaSetDevice(kDevice);
    const auto expected = std::make_shared<std::vector<char>>(RandomBytes(generator_, bytes));
    const auto allocate = [this](int64_t size) -> DeviceMemory {
      auto memory = std::make_shared<StreamOrderedMemory>(compute_, size);
      return {memory->data(), memory};
    };
    const auto fill = [&](char* pinned) { std::memcpy(pinned, expected->data(), bytes); };
    StagingSlots::Slot* slot = nullptr;
    if (failures_ > 0) emulated_cuda::FailCalls(failures_);
    const CudaResult result = slots_.Upload(bytes, allocate, fill, &slot);
    if (failures_ > 0) emulated_cuda::FailCalls(0);
    if (result.code == cudaSuccess) {
      ++uploads_;
      live_.push_back({slot, expected, false});
    } else {
      ++errors_;
      Require(slot == nullptr && *result.what != '\0', "an error without a description");
    }
  }

  void Read(Batch& batch) {
    const char* data = StagingSlots::DeviceData(batch.slot);
    if (!batch.received) {
      Require(slots_.Find(data) == batch.slot, "a live batch was not found by its address");
      if (slots_.Await(batch.slot).code != cudaSuccess) return;
      ++awaited_;
      batch.received = true;
    }
    emulated_cuda::Launch(compute_, [data, expected = batch.expected] {
      ++kernels;
      wrong += std::memcmp(data, expected->data(), expected->size()) != 0;
    });
  }

  void Release(size_t index) {
    const int device = generator_() % 2;
    cudaSetDevice(device);
    const Batch batch = live_[index];
    live_.erase(live_.begin() + index);
    slots_.Release(batch.slot);
    int found = device;
    if (cudaGetDevice(&found) == cudaSuccess) {
      Require(found == device, "the thread's device was not restored");
    }
  }

  cudaStream_t compute_;
  StagingSlots& slots_;
  std::mt19937_64 generator_;
  double failures_ = 0;
  std::vector<Batch> live_;
  int64_t uploads_ = 0, errors_ = 0, awaited_ = 0;
};

void TestOneThread(std::mt19937_64& generator, bool count_buffers) {
  // Small buffers at first, then larger ones: slots are replaced.
  const cudaStream_t compute = emulated_cuda::CreateStream(kDevice);
  User user(compute, generator());
  const int64_t waits = emulated_cuda::ComputeWaits();
  const int buffers = emulated_cuda::PinnedBuffers();
  for (const size_t max_bytes : {100, 1000, 200}) {
    for (int step = 0; step < 3000; ++step) {
      user.Step(max_bytes);
      Require(
          !count_buffers || emulated_cuda::PinnedBuffers() - buffers <= static_cast<int>(kMaxLive),
          "more slots than batches that are live at a time");
    }
  }
  user.ReleaseAll();
  Require(user.errors() == 0 && user.uploads() > 500, "too few uploads");
  Require(emulated_cuda::ComputeWaits() - waits == user.awaited(),
          "the compute stream waits for more than the batches that kernels read");
  Require(StagingSlots::Of(kDevice, compute).Find(&user) == nullptr, "found an unknown address");
}

void TestThreads(std::mt19937_64& generator) {
  const cudaStream_t compute = emulated_cuda::CreateStream(kDevice);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([compute, seed = generator()] {
      User user(compute, seed);
      for (int step = 0; step < 2000; ++step) user.Step(300);
      user.ReleaseAll();
      Require(user.errors() == 0, "an upload failed");
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void TestFailures(std::mt19937_64& generator) {
  User user(emulated_cuda::CreateStream(kDevice), generator());
  const int buffers = emulated_cuda::PinnedBuffers();
  user.FailUploads(0.2);
  for (int step = 0; step < 6000; ++step) user.Step(300);
  Require(user.errors() > 10 && user.uploads() > 100, "expected failed and other uploads");
  Require(emulated_cuda::PinnedBuffers() - buffers <= static_cast<int>(kMaxLive),
          "failed uploads keep their slots");
  user.FailUploads(0);
  // Failures of any call, also when a slot is released.
  emulated_cuda::FailCalls(0.1);
  for (int step = 0; step < 3000; ++step) user.Step(300);
  emulated_cuda::FailCalls(0);
  user.ReleaseAll();
}

void TestExit(std::mt19937_64& generator) {
  User user(emulated_cuda::CreateStream(kDevice), generator());
  for (int step = 0; step < 100; ++step) user.Step(300);
  emulated_cuda::Finish();
  emulated_cuda::Unload();
  user.ReleaseAll();
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) Require(false, "usage: staging_slots_test SEED [OMIT]");
  std::mt19937_64 generator(std::stoull(arguments[1]));
  const auto omit = static_cast<emulated_cuda::Omit>(count > 2 ? std::stoi(arguments[2]) : 0);
  emulated_cuda::Start(generator(), omit);
  // Without waits of the host, the emulation keeps freed buffers.
  TestOneThread(generator, omit != emulated_cuda::Omit::kHostWaits);
  TestThreads(generator);
  emulated_cuda::Finish();
  // Only calls that have an effect can fail.
  if (omit == emulated_cuda::Omit::kNothing) {
    TestFailures(generator);
    TestExit(generator);
  }
  std::printf("%lld kernels, %lld read wrong bytes\n", static_cast<long long>(kernels),
              static_cast<long long>(wrong));
  return wrong == 0 ? 0 : 1;
}
