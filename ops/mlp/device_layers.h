// The layers of an MLP on a GPU: which products compute them, and what replaces an epilogue that
// cuBLASLt does not have.
//
// In cuBLASLt's column-major terms, with row-major matrices read as their transposes:
//   forward          y' [n, B] = kernel' [n, k] x' [k, B], + bias, ReLU, bits of the ReLU
//   input gradient   dx' [k, B] = (kernel')^T dy' [n, B], times the bits of the layer below
//   weight gradient  dkernel' [n, k] = dy' [n, B] (x')^T, and the sums of dy' over B
#ifndef DLRM_OPS_MLP_DEVICE_LAYERS_H_
#define DLRM_OPS_MLP_DEVICE_LAYERS_H_

#include "mlp/device_memory.h"

namespace dlrm::gpu::mlp {

// Records a failure of one of our own kernels.
inline cudaError_t launched(cudaError_t status, const char* what) {
  return status == cudaSuccess ? status : failed(status, "%s: CUDA error %d", what, status);
}

// The layers in one call, with its memory.
class Layers {
 public:
  Layers(const Shape& shape, const Saved& saved, void* product_workspace, cudaStream_t stream)
      : shape_(shape), saved_(saved), workspace_(product_workspace), stream_(stream) {}

  // The kernel that layer l's products read: a copy unless it is float32 and fits as it is.
  const void* kernel(int l, const float* original) const {
    return copies_kernel(l, original) ? saved_.kernels[l] : original;
  }
  bool copies_kernel(int l, const float* original) const {
    return shape_.dtype != DLRM_FLOAT32 || (l == 0 && shape_.padded()) ||
           !aligned(original, kRowBytes);
  }

  Product forward_product(int l, const void* x, const void* kernel, void* y,
                          cublaslt::Epilogue epilogue) const {
    const int64_t n = shape_.widths[l + 1], k = shape_.rows(l);
    Product p = product(n, shape_.batch, k, shape_.dtype, epilogue);
    p.a = kernel;
    p.lda = n;
    p.b = x;
    p.ldb = k;
    p.d = y;
    p.ldd = n;
    if (epilogue != cublaslt::kEpilogueNone) p.bias = saved_.biases[l];
    if (epilogue == cublaslt::kEpilogueReluAuxBias) set_bits(l, &p);
    return p;
  }

  // The gradient of layer l's input, without padding.
  Product input_product(int l, const void* gradient, const void* kernel, void* x_gradient,
                        cublaslt::Epilogue epilogue) const {
    const int64_t n = shape_.widths[l + 1], k = shape_.widths[l];
    Product p = product(k, shape_.batch, n, shape_.dtype, epilogue);
    p.a = kernel;
    p.lda = n;
    p.transpose_a = true;
    p.b = gradient;
    p.ldb = n;
    p.d = x_gradient;
    p.ldd = k;
    if (epilogue == cublaslt::kEpilogueDrelu) set_bits(l - 1, &p);
    return p;
  }

  Product weight_product(int l, const void* x, const void* gradient, float* kernel_gradient,
                         float* bias_gradient) const {
    const int64_t n = shape_.widths[l + 1], k = shape_.rows(l);
    Product p = product(
        n, k, shape_.batch, DLRM_FLOAT32,
        bias_gradient == nullptr ? cublaslt::kEpilogueNone : cublaslt::kEpilogueBiasGradientA);
    p.a = gradient;
    p.lda = n;
    p.b = x;
    p.ldb = k;
    p.transpose_b = true;
    p.d = kernel_gradient;
    p.ldd = n;
    p.bias = bias_gradient;
    return p;
  }

  // Whether the bits of hidden layer l are written forward and read backward. The order of the bits
  // is cuBLASLt's own, so only cuBLASLt does either. The answer is the same in both calls: it does
  // not depend on pointers.
  cudaError_t uses_bits(int l, bool* uses) const {
    *uses = false;
    bool found = false;
    cudaError_t status = has_algorithm(
        forward_product(l, nullptr, nullptr, nullptr, cublaslt::kEpilogueReluAuxBias), &found);
    if (status != cudaSuccess || !found) return status;
    return has_algorithm(input_product(l + 1, nullptr, nullptr, nullptr, cublaslt::kEpilogueDrelu),
                         uses);
  }

  // y = the activations of layer l.
  cudaError_t forward(int l, const void* x, const void* kernel, void* y, bool keeps_bits) const {
    const bool relu = l + 1 < shape_.layers || shape_.last_relu;
    bool found = false;
    cudaError_t status = cudaSuccess;
    if (keeps_bits) status = uses_bits(l, &found);
    if (status != cudaSuccess) return status;
    if (found) return run(forward_product(l, x, kernel, y, cublaslt::kEpilogueReluAuxBias));
    const Product fused = forward_product(
        l, x, kernel, y, relu ? cublaslt::kEpilogueReluBias : cublaslt::kEpilogueBias);
    status = has_algorithm(fused, &found);
    if (status != cudaSuccess) return status;
    if (found) return run(fused);
    status = run(forward_product(l, x, kernel, y, cublaslt::kEpilogueNone));
    if (status != cudaSuccess) return status;
    return launched(add_bias(shape_.dtype, y, saved_.biases[l], shape_.batch, shape_.widths[l + 1],
                             relu, stream_),
                    "bias and ReLU");
  }

  // The gradient of hidden layer l - 1 before its ReLU, given its activations.
  cudaError_t input_gradient(int l, const void* gradient, const void* kernel,
                             const void* activations, void* x_gradient) const {
    bool uses = false;
    cudaError_t status = uses_bits(l - 1, &uses);
    if (status != cudaSuccess) return status;
    if (uses) {
      return run(input_product(l, gradient, kernel, x_gradient, cublaslt::kEpilogueDrelu));
    }
    status = run(input_product(l, gradient, kernel, x_gradient, cublaslt::kEpilogueNone));
    if (status != cudaSuccess) return status;
    return launched(mask_gradient(shape_.dtype, x_gradient, activations, x_gradient,
                                  shape_.batch * shape_.widths[l], stream_),
                    "mask of a gradient");
  }

  cudaError_t weight_gradients(int l, const void* x, const void* gradient, float* kernel_gradient,
                               float* bias_gradient, float* parts) const {
    const Product fused = weight_product(l, x, gradient, kernel_gradient, bias_gradient);
    bool found = false;
    cudaError_t status = has_algorithm(fused, &found);
    if (status != cudaSuccess) return status;
    if (found) return run(fused);
    status = run(weight_product(l, x, gradient, kernel_gradient, nullptr));
    if (status != cudaSuccess) return status;
    return launched(column_sums(shape_.dtype, gradient, shape_.batch, shape_.widths[l + 1], parts,
                                bias_gradient, stream_),
                    "gradient of a bias");
  }

  cudaError_t run(const Product& p) const { return multiply(p, workspace_, stream_); }

  // Makes the copies of weights and input that products read.
  cudaError_t copy(const void* x, const float* const* kernels, const float* const* biases) const {
    RowsCopy rows = {x, saved_.input, shape_.batch, shape_.widths[0], shape_.padded_inputs};
    WeightCopy copies[kMostCopies];
    int count = 0;
    cudaError_t status = cudaSuccess;
    const auto flush = [&] {
      if (status == cudaSuccess) {
        status = launched(copy_for_products(shape_.dtype, copies, count, rows, stream_),
                          "copy of the weights");
      }
      rows.target = nullptr;
      count = 0;
    };
    for (int l = 0; l < shape_.layers; ++l) {
      const int64_t n = shape_.widths[l + 1];
      if (copies_kernel(l, kernels[l])) {
        copies[count++] = {kernels[l], saved_.kernels[l], shape_.widths[l] * n, shape_.rows(l) * n};
      }
      copies[count++] = {biases[l], saved_.biases[l], n, n};
      if (count + 2 > kMostCopies) flush();
    }
    if (count > 0 || rows.target != nullptr) flush();
    return status;
  }

 private:
  Product product(int64_t m, int64_t n, int64_t k, int result, cublaslt::Epilogue epilogue) const {
    Product p = {};
    p.m = m;
    p.n = n;
    p.k = k;
    p.dtype = shape_.dtype;
    p.result = result;
    p.tf32 = shape_.tf32;
    p.epilogue = epilogue;
    return p;
  }
  void set_bits(int l, Product* p) const {
    p->bits = saved_.bits[l];
    p->bits_ld = shape_.bits_ld(l);
  }

  const Shape& shape_;
  const Saved& saved_;
  void* workspace_;
  cudaStream_t stream_;
};

}  // namespace dlrm::gpu::mlp

#endif  // DLRM_OPS_MLP_DEVICE_LAYERS_H_
