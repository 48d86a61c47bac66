// An MLP's matrix products with oneDNN, each for a fixed number of rows and one thread.
//
// Single-threaded primitives run in parallel on TensorFlow's threads: a second thread pool
// (OpenMP's) would compete with the first for the cores. Errors are dnnl::error.

#ifndef DLRM_OPS_MLP_MLP_PRODUCTS_H_
#define DLRM_OPS_MLP_MLP_PRODUCTS_H_

#include <cstdint>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"

namespace dlrm {

// Makes this thread's oneDNN calls single-threaded during its lifetime.
class SingleThreaded {
 public:
  SingleThreaded();
  ~SingleThreaded();
  SingleThreaded(const SingleThreaded&) = delete;
  SingleThreaded& operator=(const SingleThreaded&) = delete;

 private:
  int before_;
};

// Whether the processor has bfloat16 products (AVX-512 BF16, AMX). If not, floats hold the values.
bool HasBfloat16Products();

// The two uses of a layer's kernel [K, N]: activations [rows, K] times the kernel, and gradients
// [rows, N] times its transpose.
enum class KernelUse { kForward, kInputGradient };

// One product c = a b, where b is a kernel.
class KernelProduct {
 public:
  // `a` is [rows, K] or [rows, N], row-major, of `type`. The kernel's layout is that of the product
  // `like` if given, else oneDNN's choice if `blocked`, else row-major. Forward adds a bias [N].
  KernelProduct(KernelUse use, int64_t rows, int64_t inputs, int64_t outputs,
                dnnl::memory::data_type type, bool blocked, const KernelProduct* like);

  // Bytes of the kernel in the product's layout; 0 if it is used unpacked.
  size_t packed_bytes() const;
  // Writes the row-major kernel [K, N] in that layout.
  void Pack(const float* kernel, void* packed) const;

  size_t scratch_bytes() const { return description_.scratchpad_desc().get_size(); }
  void Run(const void* a, const void* kernel, const float* bias, void* c, void* scratch) const;

  // Whether oneDNN has only reference code for this product.
  bool is_slow() const;

 private:
  dnnl::memory::desc plain_;  // of an unpacked float32 kernel
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

// The products of all layers for chunks of `rows` and one of `tail` rows (0: none). `widths` starts
// with the input's.
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
