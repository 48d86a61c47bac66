#include "mlp/mlp_batch.h"

#include "tensorflow/core/util/work_sharder.h"

namespace dlrm {

using tensorflow::OpInputList;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

std::shared_ptr<const MlpProducts> ProductsCache::Get(const std::vector<int64_t>& widths,
                                                      const Chunks& chunks,
                                                      dnnl::memory::data_type type, bool backward) {
  std::vector<int64_t> key = widths;
  key.insert(key.end(), {chunks.rows, chunks.Tail(), static_cast<int64_t>(type)});
  std::lock_guard<std::mutex> lock(mutex_);
  std::shared_ptr<const MlpProducts>& kept = products_[key];
  if (kept == nullptr) {
    SingleThreaded single;
    const auto made =
        std::make_shared<const MlpProducts>(widths, chunks.rows, chunks.Tail(), type, backward);
    if (products_.size() > kMost) products_.clear();
    products_[key] = made;
    return made;
  }
  return kept;
}

int64_t Threads(OpKernelContext* c) {
  return c->device()->tensorflow_cpu_worker_threads()->num_threads;
}

Status RunSlots(OpKernelContext* c, int64_t slots, const std::function<void(int64_t)>& work) {
  const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
  std::mutex mutex;
  std::string error;
  // A cost that makes each slot a separate task.
  constexpr int64_t kCycles = 1000 * 1000 * 1000;
  tensorflow::Shard(workers.num_threads, workers.workers, slots, kCycles,
                    [&](int64_t begin, int64_t end) {
                      SingleThreaded single;
                      try {
                        for (int64_t slot = begin; slot < end; ++slot) work(slot);
                      } catch (const std::exception& caught) {
                        std::lock_guard<std::mutex> lock(mutex);
                        error = caught.what();
                      }
                    });
  return error.empty() ? Status()
                       : Internal("oneDNN failed in ", c->op_kernel().type_string(), ": ", error);
}

Status SlotMemory::Allocate(OpKernelContext* c, int64_t slots, size_t bytes) {
  bytes_ = Lines(bytes);
  const int64_t total = slots * static_cast<int64_t>(bytes_);
  TF_RETURN_IF_ERROR(c->allocate_temp(tensorflow::DT_INT8, TensorShape({total + 64}), &memory_));
  char* data = reinterpret_cast<char*>(memory_.flat<int8_t>().data());
  data_ = data + (64 - reinterpret_cast<uintptr_t>(data) % 64) % 64;
  return Status();
}

Status GradientSums::Allocate(OpKernelContext* c, int64_t slots,
                              const std::vector<Tensor*>& gradients) {
  sums_.resize(std::max<int64_t>(1, slots));
  size_t bytes = 0;
  for (Tensor* gradient : gradients) {
    sums_[0].push_back(gradient->flat<float>().data());
    sizes_.push_back(gradient->NumElements());
    bytes += Lines(gradient->TotalBytes());
  }
  if (slots > 1) TF_RETURN_IF_ERROR(memory_.Allocate(c, slots - 1, bytes));
  for (int64_t slot = 1; slot < slots; ++slot) {
    char* next = memory_.of(slot - 1);
    for (int64_t size : sizes_) {
      sums_[slot].push_back(reinterpret_cast<float*>(next));
      next += Lines(size * sizeof(float));
    }
  }
  return Status();
}

void GradientSums::AddUp(OpKernelContext* c) const {
  if (sums_.size() < 2) return;
  const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
  for (size_t part = 0; part < sizes_.size(); ++part) {
    tensorflow::Shard(workers.num_threads, workers.workers, sizes_[part], sums_.size(),
                      [&](int64_t begin, int64_t end) {
                        for (size_t slot = 1; slot < sums_.size(); ++slot) {
                          float* total = sums_[0][part];
                          const float* more = sums_[slot][part];
                          for (int64_t i = begin; i < end; ++i) total[i] += more[i];
                        }
                      });
  }
}

Status PackedKernels::Pack(OpKernelContext* c, const MlpProducts& products,
                           const OpInputList& kernels,
                           void (*round)(const float*, int64_t, float*)) {
  const size_t layers = products.layers().size();
  std::vector<size_t> rounded(layers), packed(layers);
  size_t bytes = 0;
  for (size_t l = 0; l < layers; ++l) {
    rounded[l] = bytes;
    if (round != nullptr) bytes += Lines(kernels[l].TotalBytes());
    packed[l] = bytes;
    bytes += Lines(products.layers()[l].kernel[0].packed_bytes());
  }
  if (bytes != 0) TF_RETURN_IF_ERROR(memory_.Allocate(c, 1, bytes));
  kernels_.resize(layers);
  const auto pack = [&](int64_t l) {
    const KernelProduct& product = products.layers()[l].kernel[0];
    const float* kernel = kernels[l].flat<float>().data();
    if (round != nullptr) {
      float* out = reinterpret_cast<float*>(memory_.of(0) + rounded[l]);
      round(kernel, kernels[l].NumElements(), out);
      kernel = out;
    }
    kernels_[l] = kernel;
    if (product.packed_bytes() == 0) return;
    product.Pack(kernel, memory_.of(0) + packed[l]);
    kernels_[l] = memory_.of(0) + packed[l];
  };
  if (bytes != 0) return RunSlots(c, layers, pack);
  for (size_t l = 0; l < layers; ++l) pack(l);
  return Status();
}

}  // namespace dlrm
