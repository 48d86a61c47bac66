// The shapes of an MLP on a GPU, and the parts of its `saved` and `workspace` (mlp_launchers.h).
#ifndef DLRM_OPS_MLP_DEVICE_MEMORY_H_
#define DLRM_OPS_MLP_DEVICE_MEMORY_H_

#include <algorithm>
#include <vector>

#include "mlp/device_kernels.h"
#include "mlp/device_products.h"
#include "mlp/mlp_launchers.h"

namespace dlrm::gpu::mlp {

constexpr int64_t kRowBytes = 16;  // rows of other lengths are slow to read
constexpr int64_t kAlignment = 256;

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

inline bool aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

// Takes parts of memory, or with NULL counts their bytes.
class Parts {
 public:
  explicit Parts(void* memory) : memory_(static_cast<unsigned char*>(memory)) {}
  void* take(int64_t bytes) {
    void* part = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += round_up(bytes, kAlignment);
    return part;
  }
  int64_t used() const { return used_; }

 private:
  unsigned char* memory_;
  int64_t used_ = 0;
};

// The shapes, and what follows from them.
class Shape {
 public:
  explicit Shape(const DlrmMlp& mlp)
      : batch(mlp.batch),
        layers(mlp.layers),
        dtype(mlp.dtype),
        last_relu(mlp.last_relu != 0),
        tf32(mlp.tf32 != 0),
        element(mlp.dtype == DLRM_FLOAT32 ? 4 : 2),
        widths(mlp.widths),
        padded_inputs(round_up(mlp.widths[0] * element, kRowBytes) / element) {}

  bool padded() const { return padded_inputs != widths[0]; }
  // Rows of the copy of layer l's kernel.
  int64_t rows(int l) const { return l == 0 ? padded_inputs : widths[l]; }
  int64_t bits_ld(int l) const { return round_up(widths[l + 1], 128); }

  const int64_t batch;
  const int layers, dtype;
  const bool last_relu, tf32;
  const int64_t element;
  const int64_t* const widths;
  const int64_t padded_inputs;
};

// The copies of a call: weights in `dtype` (biases also in float32), the padded input, and, for
// training, bits of the hidden layers' ReLUs.
struct Saved {
  Saved(const Shape& s, void* memory, bool training) {
    Parts parts(memory);
    for (int l = 0; l < s.layers; ++l) {
      kernels.push_back(parts.take(s.rows(l) * s.widths[l + 1] * s.element));
      biases.push_back(parts.take(s.widths[l + 1] * s.element));
    }
    input = s.padded() ? parts.take(s.batch * s.padded_inputs * s.element) : nullptr;
    for (int l = 0; training && l + 1 < s.layers; ++l) {
      bits.push_back(parts.take(s.batch * s.bits_ld(l) / 8));
    }
    bytes = parts.used();
  }

  std::vector<void*> kernels, biases, bits;
  void* input;
  int64_t bytes;
};

struct Workspace {
  Workspace(const Shape& s, void* memory) {
    Parts parts(memory);
    product = parts.take(kProductWorkspaceBytes);
    int64_t size[2] = {0, 0};
    int64_t widest = 0;
    for (int l = 0; l < s.layers; ++l) {
      if (l + 1 < s.layers || s.last_relu) size[l % 2] = std::max(size[l % 2], s.widths[l + 1]);
      widest = std::max(widest, s.widths[l + 1]);
    }
    for (int i = 0; i < 2; ++i) activations[i] = parts.take(size[i] * s.batch * s.element);
    first_gradient = static_cast<float*>(
        parts.take(s.padded() ? s.padded_inputs * s.widths[1] * int64_t{sizeof(float)} : 0));
    sums = static_cast<float*>(
        parts.take(column_sum_parts(s.batch) * widest * int64_t{sizeof(float)}));
    copies = parts.take(Saved(s, nullptr, false).bytes);
    bytes = parts.used();
  }

  void* product;
  void* activations[2];   // of layer l, or their gradients: number l % 2
  float* first_gradient;  // of the padded first kernel
  float* sums;            // parts of sums of columns
  void* copies;           // `saved` of an inference
  int64_t bytes;
};

}  // namespace dlrm::gpu::mlp

#endif  // DLRM_OPS_MLP_DEVICE_MEMORY_H_
