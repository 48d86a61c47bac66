// What the forward and the backward kernel share: how a batch is dealt over threads, and their
// products.

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

// B rows in `count` chunks of `rows` (the last one may be shorter). Slot s of `slots`, one for a
// thread, has the chunks [First(s), First(s + 1)): who sums what does not depend on who is faster.
struct Chunks {
  int64_t batch, rows, count, slots;

  // At most `most_rows` a chunk, so that a chunk's activations stay in the caches, and at least
  // `least_rows` a slot: fewer are not worth one more thread.
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

// Products by what they depend on, made when first needed. Thread-safe.
class ProductsCache {
 public:
  std::shared_ptr<const MlpProducts> Get(const std::vector<int64_t>& widths, const Chunks& chunks,
                                         dnnl::memory::data_type type, bool backward);

 private:
  // Last batches and served requests have many sizes; oneDNN keeps its own code for longer.
  static constexpr size_t kMost = 16;
  std::mutex mutex_;
  std::map<std::vector<int64_t>, std::shared_ptr<const MlpProducts>> products_;
};

// Checks x [B, K] and kernels [K, n1], [n1, n2] ...; gives widths {K, n1, n2 ...}.
Status CheckKernels(const tensorflow::Tensor& x, const tensorflow::OpInputList& kernels,
                    std::vector<int64_t>* widths);

// Runs work(slot) for every slot on TensorFlow's threads, single-threaded oneDNN in each; an
// exception in one of them is the returned error.
Status RunSlots(tensorflow::OpKernelContext* c, int64_t slots,
                const std::function<void(int64_t)>& work);

// Bytes rounded up to whole cache lines, so that what follows is aligned.
inline size_t Lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Memory of one part for each slot, 64-byte aligned.
class SlotMemory {
 public:
  Status Allocate(tensorflow::OpKernelContext* c, int64_t slots, size_t bytes);
  char* of(int64_t slot) { return data_ + slot * bytes_; }

 private:
  tensorflow::Tensor memory_;
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

// The kernels of an MLP as its products take them, in memory that lives as long as this.
class PackedKernels {
 public:
  // `round` is null, or rounds `count` floats to what the products may take.
  Status Pack(tensorflow::OpKernelContext* c, const MlpProducts& products,
              const tensorflow::OpInputList& kernels,
              void (*round)(const float* in, int64_t count, float* out));
  const void* of(size_t layer) const { return kernels_[layer]; }

 private:
  SlotMemory memory_;
  std::vector<const void*> kernels_;
};

int64_t Threads(tensorflow::OpKernelContext* c);

// Rows of a chunk by default. Plain float32 products prepare the kernel anew each time, which many
// rows pay for; bfloat16 products take it prepared.
template <class C>
constexpr int64_t ForwardRows() {
  return sizeof(C) == 4 ? 1024 : 256;
}
template <class C>
constexpr int64_t BackwardRows() {
  return 1024;
}

// The products for a batch, and which of a chunk's to take: 0 for whole ones, 1 for the tail.
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
