// An MLP's matrix products by oneDNN, each for one number of rows and one thread.
//
// Single-threaded primitives run side by side in TensorFlow's own threads: a second pool of
// threads (OpenMP's) would fight with the first over the cores. Errors are dnnl::error.

#ifndef DLRM_OPS_MLP_MLP_PRODUCTS_H_
#define DLRM_OPS_MLP_MLP_PRODUCTS_H_

#include <cstdint>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

namespace dlrm {

// Makes this thread's oneDNN calls single-threaded while it lives.
class SingleThreaded {
 public:
  SingleThreaded();
  ~SingleThreaded();
  SingleThreaded(const SingleThreaded&) = delete;
  SingleThreaded& operator=(const SingleThreaded&) = delete;

 private:
  int before_;
};

// Whether the processor multiplies bfloat16 (AVX-512 BF16, AMX); else floats hold its values.
bool HasBfloat16Products();

// The two things that a layer's kernel [K, N] is multiplied with: rows of activations, and, as
// its transpose [N, K], rows of gradients.
enum class KernelUse { kForward, kInputGradient };

// One product c = a b, where b is a kernel.
class KernelProduct {
 public:
  // a [rows, K] or [rows, N], row by row, of `type`. The kernel has the layout that another
  // product has (`like`), else the one that oneDNN wants, else (not `blocked`) row by row. Forward
  // adds a bias [N].
  KernelProduct(KernelUse use, int64_t rows, int64_t inputs, int64_t outputs,
                dnnl::memory::data_type type, bool blocked, const KernelProduct* like);

  // Bytes that the kernel takes in the product's own layout; 0: it is taken as it lies.
  size_t packed_bytes() const;
  // Writes the kernel [K, N], row by row, in that layout.
  void Pack(const float* kernel, void* packed) const;

  size_t scratch_bytes() const { return description_.scratchpad_desc().get_size(); }
  void Run(const void* a, const void* kernel, const float* bias, void* c, void* scratch) const;

  // Whether oneDNN has nothing but its reference code for this.
  bool is_slow() const;

 private:
  dnnl::memory::desc plain_;  // of a float32 kernel as it lies
  dnnl::matmul::primitive_desc description_;
  dnnl::matmul product_;
};

// The gradient of a kernel: gradient [K, N] (+)= transposed activations [rows, K] times [rows, N].
class KernelGradient {
 public:
  KernelGradient(bool accumulate, int64_t rows, int64_t inputs, int64_t outputs,
                 dnnl::memory::data_type type);
  size_t scratch_bytes() const { return description_.scratchpad_desc().get_size(); }
  void Run(const void* activations, const void* gradients, float* gradient, void* scratch) const;
  bool is_slow() const;

 private:
  dnnl::matmul::primitive_desc description_;
  dnnl::matmul product_;
};

// The products of all layers, `widths` wide (input first), for chunks of `rows` and one of `tail`
// rows (0: none).
class MlpProducts {
 public:
  MlpProducts(const std::vector<int64_t>& widths, int64_t rows, int64_t tail,
              dnnl::memory::data_type type, bool backward);

  struct Layer {
    std::vector<KernelProduct> kernel;  // forward, or the input's gradient: [chunk, tail]
    std::vector<KernelGradient> first, more;
  };
  const std::vector<Layer>& layers() const { return layers_; }
  size_t scratch_bytes() const { return scratch_bytes_; }
  bool is_slow() const { return is_slow_; }

 private:
  std::vector<Layer> layers_;
  size_t scratch_bytes_ = 0;
  bool is_slow_ = false;
};

}  // namespace dlrm

#endif  // DLRM_OPS_MLP_MLP_PRODUCTS_H_
