// Random kernels on a compute stream and its SideStream, on the emulated CUDA runtime, with memory
// that is handed out as TensorFlow does it: does each kernel read what it should?
//
//   side_stream_test SEED [OMIT [RELEASE]]    OMIT: number of an emulated_cuda::Omit; RELEASE: what
//                                             is not held, a number of `Release`
//
// Prints the number of kernels and of those that read wrong bytes. The exit code is 0 if all were
// right, 1 if some were not, 2 if anything else is wrong.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "emulated_cuda.h"
#include "side_stream/side_stream.h"

namespace {

using dlrm::CudaResult;
using dlrm::SideStream;

constexpr int kDevice = 1;
constexpr size_t kBytes = 16, kMaxLive = 12;

enum class Release { kNothing, kInputs, kOutputs, kWorkspace };

int64_t kernels = 0, wrong = 0;  // guarded by the emulation's lock, under which kernels run

void Require(bool condition, const char* message) {
  if (condition) return;
  std::printf("%s\n", message);
  std::exit(2);
}

using Bytes = std::vector<char>;

// The kernels: `bytes` outlives them, whoever owns it then.
void Write(cudaStream_t stream, Bytes* bytes, char value) {
  emulated_cuda::Launch(stream, [=] { std::fill(bytes->begin(), bytes->end(), value); });
}

void Check(cudaStream_t stream, const Bytes* bytes, char value) {
  emulated_cuda::Launch(stream, [=] {
    ++kernels;
    wrong += *bytes != Bytes(kBytes, value);
  });
}

// Device memory as TensorFlow's allocator hands it out: what the host frees is the next to be used,
// while kernels that use it may still wait in a stream.
class Pool {
 public:
  std::shared_ptr<Bytes> Allocate() {
    std::lock_guard<std::mutex> lock(mu_);
    Bytes* bytes = nullptr;
    if (free_.empty()) {
      all_.push_back(std::make_unique<Bytes>(kBytes));
      bytes = all_.back().get();
    } else {
      bytes = free_.back();
      free_.pop_back();
    }
    return std::shared_ptr<Bytes>(bytes, [this](Bytes* freed) {
      std::lock_guard<std::mutex> lock(mu_);
      free_.push_back(freed);
    });
  }

  size_t used() {
    std::lock_guard<std::mutex> lock(mu_);
    return all_.size() - free_.size();
  }

 private:
  std::mutex mu_;
  std::vector<std::unique_ptr<Bytes>> all_;
  std::vector<Bytes*> free_;
};

// A user of the streams: ops with random inputs, which it frees in random order.
class User {
 public:
  User(cudaStream_t compute, Pool* pool, Release release, uint64_t seed)
      : compute_(compute),
        side_(SideStream::Of(kDevice, compute)),
        pool_(*pool),
        release_(release),
        generator_(seed),
        table_(pool->Allocate()) {
    cudaSetDevice(kDevice);
    Write(compute_, table_.get(), row_);
  }

  void Step() {
    switch (generator_() % 6) {
      case 0:
      case 1:
        OnCompute();
        break;
      case 2:
        OnSide();
        break;
      case 3:
        Join();
        break;
      default:
        if (!live_.empty()) live_.erase(live_.begin() + generator_() % live_.size());
    }
    emulated_cuda::Progress();
  }

  void Join() {
    if (failures_ > 0) emulated_cuda::FailCalls(failures_);
    const CudaResult result = side_.Join();
    if (failures_ > 0) emulated_cuda::FailCalls(0);
    if (!Succeeded(result)) return;
    for (Tensor& tensor : live_) tensor.ready = true;
    joined_ = true;
  }

  // Lets each CUDA call within Run and Join fail with this probability.
  void Fail(double probability) { failures_ = probability; }

  size_t used() const { return live_.size() + 1; }  // tensors and the table
  int64_t runs() const { return runs_; }
  int64_t errors() const { return errors_; }

 private:
  struct Tensor {
    std::shared_ptr<Bytes> memory;
    char value;
    bool ready;  // for the compute stream
  };

  char NewValue() { return static_cast<char>(generator_()); }

  bool Succeeded(const CudaResult& result) {
    if (result.code == cudaSuccess) return true;
    ++errors_;
    Require(*result.what != '\0', "an error without a description");
    return false;
  }

  // Reads some tensors, and writes a new one and a workspace.
  void LaunchOp(cudaStream_t stream, const std::vector<Tensor>& inputs, const Tensor& output,
                const std::shared_ptr<Bytes>& workspace) {
    Write(stream, workspace.get(), output.value);
    for (const Tensor& input : inputs) Check(stream, input.memory.get(), input.value);
    Check(stream, workspace.get(), output.value);
    Write(stream, output.memory.get(), output.value);
  }

  // Reads the table and changes it.
  void LaunchRow(cudaStream_t stream, char value) {
    Check(stream, table_.get(), row_);
    Write(stream, table_.get(), value);
    row_ = value;
  }

  std::vector<Tensor> SomeInputs(bool any) {
    std::vector<Tensor> inputs;
    for (const Tensor& tensor : live_) {
      if ((any || tensor.ready) && generator_() % 2 == 0) inputs.push_back(tensor);
    }
    return inputs;
  }

  void OnCompute() {
    if (live_.size() == kMaxLive) return;
    const Tensor output = {pool_.Allocate(), NewValue(), true};
    const auto workspace = pool_.Allocate();
    LaunchOp(compute_, SomeInputs(false), output, workspace);
    // An op without the side stream, e.g. of an evaluation, may only follow a join.
    if (joined_) LaunchRow(compute_, NewValue());
    live_.push_back(output);
  }

  void OnSide() {
    if (live_.size() == kMaxLive) return;
    // The side stream's own results are ready for it.
    const auto inputs = SomeInputs(true);
    const Tensor output = {pool_.Allocate(), NewValue(), false};
    const auto workspace = pool_.Allocate();
    SideStream::Held held;
    if (release_ != Release::kInputs) {
      for (const Tensor& input : inputs) held.push_back(input.memory);
    }
    if (release_ != Release::kOutputs) held.push_back(output.memory);
    if (release_ != Release::kWorkspace) held.push_back(workspace);
    held.push_back(table_);
    bool launched = false, failed = false;
    const auto launch = [&](cudaStream_t stream) {
      LaunchOp(stream, inputs, output, workspace);
      LaunchRow(stream, NewValue());
      launched = true;
      failed = std::uniform_real_distribution<>()(generator_) < failures_;
      return failed ? cudaErrorLaunchFailure : cudaSuccess;
    };
    if (failures_ > 0) emulated_cuda::FailCalls(failures_);
    const CudaResult result = side_.Run(std::move(held), launch, "a test's op");
    if (failures_ > 0) emulated_cuda::FailCalls(0);
    Require((result.code == cudaSuccess) == (launched && !failed), "an error was lost");
    if (launched) joined_ = false;
    if (!Succeeded(result)) return;
    ++runs_;
    live_.push_back(output);
  }

  cudaStream_t compute_;
  SideStream& side_;
  Pool& pool_;
  Release release_;
  std::mt19937_64 generator_;
  double failures_ = 0;
  std::vector<Tensor> live_;
  std::shared_ptr<Bytes> table_;
  char row_ = 0;  // the table's value after all kernels launched so far
  bool joined_ = true;
  int64_t runs_ = 0, errors_ = 0;
};

void TestOneThread(std::mt19937_64& generator, Release release) {
  auto& pool = *new Pool;
  const cudaStream_t compute = emulated_cuda::CreateStream(kDevice);
  User user(compute, &pool, release, generator());
  const int64_t waits = emulated_cuda::ComputeWaits();
  user.Join();
  Require(emulated_cuda::ComputeWaits() == waits, "a join waits for nothing");
  for (int step = 0; step < 6000; ++step) user.Step();
  user.Join();
  Require(user.errors() == 0 && user.runs() > 300, "too few ops on the side stream");
  Require(pool.used() == user.used(), "memory is still held after a join");
}

void TestThreads(std::mt19937_64& generator, Release release) {
  auto& pool = *new Pool;
  const cudaStream_t compute = emulated_cuda::CreateStream(kDevice);
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([compute, &pool, release, seed = generator()] {
      User user(compute, &pool, release, seed);
      for (int step = 0; step < 2000; ++step) user.Step();
      user.Join();
      Require(user.errors() == 0, "an op failed");
    });
  }
  for (std::thread& thread : threads) thread.join();
  Require(pool.used() == 0, "memory is still held after the last join");
}

void TestFailures(std::mt19937_64& generator) {
  auto& pool = *new Pool;
  User user(emulated_cuda::CreateStream(kDevice), &pool, Release::kNothing, generator());
  user.Fail(0.2);
  for (int step = 0; step < 6000; ++step) user.Step();
  Require(user.errors() > 10 && user.runs() > 100, "expected failed and other ops");
  user.Fail(0);
  user.Join();
  Require(pool.used() == user.used(), "memory is still held after failures and a join");
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) Require(false, "usage: side_stream_test SEED [OMIT [RELEASE]]");
  std::mt19937_64 generator(std::stoull(arguments[1]));
  const auto omit = static_cast<emulated_cuda::Omit>(count > 2 ? std::stoi(arguments[2]) : 0);
  const auto release = static_cast<Release>(count > 3 ? std::stoi(arguments[3]) : 0);
  emulated_cuda::Start(generator(), omit);
  TestOneThread(generator, release);
  TestThreads(generator, release);
  // Only calls that have an effect can fail.
  if (omit == emulated_cuda::Omit::kNothing) TestFailures(generator);
  emulated_cuda::Finish();
  std::printf("%lld kernels, %lld read wrong bytes\n", static_cast<long long>(kernels),
              static_cast<long long>(wrong));
  return wrong == 0 ? 0 : 1;
}
