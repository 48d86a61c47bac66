// Shared by the forward and backward kernels of MLPs and cross networks: the partition of a batch
// over threads, cached products, temporary memory.

#ifndef DLRM_OPS_MLP_MLP_BATCH_H_
#define DLRM_OPS_MLP_MLP_BATCH_H_

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "mlp/mlp_cpu.h"
#include "mlp/mlp_products.h"
#include "status.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dlrm {

// B rows in `count` chunks of `rows` (the last one may be shorter). Slot s of `slots`, one per
// thread, has the chunks [First(s), First(s + 1)), so that sums do not depend on thread timing.
struct Chunks {
  int64_t batch, rows, count, slots;

  // At most `most_rows` per chunk, so that a chunk's activations stay in the caches, and at least
  // `least_rows` per slot: fewer rows do not justify another thread.
  static Chunks Of(int64_t batch, int64_t threads, int64_t most_rows, int64_t least_rows) {
    constexpr int64_t kMultiple = 16;
    if (batch == 0) return {0, 0, 0, 0};
    const int64_t slots = std::max<int64_t>(1, std::min(threads, batch / least_rows));
    const int64_t each = (batch + slots * most_rows - 1) / (slots * most_rows);
    int64_t rows = (batch + slots * each - 1) / (slots * each);
    if (rows < batch) rows = std::min(batch, (rows + kMultiple - 1) / kMultiple * kMultiple);
    const int64_t count = (batch + rows - 1) / rows;
    return {batch, rows, count, std::min(slots, count)};
  }

  int64_t First(int64_t slot) const { return slot * count / slots; }
  int64_t Rows(int64_t chunk) const { return std::min(rows, batch - chunk * rows); }
  // Rows of the last chunk if it is shorter than the others, else 0.
  int64_t Tail() const { return count == 0 ? 0 : Rows(count - 1) % rows; }
};

// Products by widths, chunk sizes and type, created on first use. Thread-safe.
class ProductsCache {
 public:
  std::shared_ptr<const MlpProducts> Get(const std::vector<int64_t>& widths, const Chunks& chunks,
                                         dnnl::memory::data_type type, bool backward);

 private:
  // Bounds the cache: served requests have many batch sizes. oneDNN caches its code separately.
  static constexpr size_t kMost = 16;
  std::mutex mutex_;
  std::map<std::vector<int64_t>, std::shared_ptr<const MlpProducts>> products_;
};

// Runs work(slot) for every slot on TensorFlow's threads, with single-threaded oneDNN in each.
// Returns an error if a call throws.
Status RunSlots(tensorflow::OpKernelContext* c, int64_t slots,
                const std::function<void(int64_t)>& work);

// Bytes rounded up to a multiple of a cache line, so that the next buffer is aligned.
inline size_t Lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

// One temporary buffer per slot, 64-byte aligned.
class SlotMemory {
 public:
  Status Allocate(tensorflow::OpKernelContext* c, int64_t slots, size_t bytes);
  char* of(int64_t slot) { return data_ + slot * bytes_; }

 private:
  tensorflow::Tensor memory_;
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

// float32 sums of gradients, one for each slot, which are added up in a fixed order. Slot 0's are
// the output tensors, every other slot's are in temporary memory.
class GradientSums {
 public:
  Status Allocate(tensorflow::OpKernelContext* c, int64_t slots,
                  const std::vector<tensorflow::Tensor*>& gradients);
  // The slot's sums, in the order of the gradients; not initialized.
  const std::vector<float*>& of(int64_t slot) const { return sums_[slot]; }
  // Adds the sums of slots 1, 2, ... to those of slot 0, in this order.
  void AddUp(tensorflow::OpKernelContext* c) const;

 private:
  std::vector<std::vector<float*>> sums_;  // [slot][gradient]
  std::vector<int64_t> sizes_;             // [gradient]
  SlotMemory memory_;
};

// An MLP's kernels in the layout of its products. Owns the memory.
class PackedKernels {
 public:
  // `round` is null, or rounds `count` floats to bfloat16 values.
  Status Pack(tensorflow::OpKernelContext* c, const MlpProducts& products,
              const tensorflow::OpInputList& kernels,
              void (*round)(const float* in, int64_t count, float* out));
  const void* of(size_t layer) const { return kernels_[layer]; }

 private:
  SlotMemory memory_;
  std::vector<const void*> kernels_;
};

int64_t Threads(tensorflow::OpKernelContext* c);

// The products for a batch. Size(chunk) is their index: 0 for full chunks, 1 for the tail.
struct BatchProducts {
  Chunks chunks;
  std::shared_ptr<const MlpProducts> products;
  int Size(int64_t chunk) const { return chunks.Rows(chunk) == chunks.rows ? 0 : 1; }
};

template <class C>
constexpr dnnl::memory::data_type TypeOf() {
  return sizeof(C) == 4 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

}  // namespace dlrm

#endif  // DLRM_OPS_MLP_MLP_BATCH_H_
