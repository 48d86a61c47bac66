// The MLP on a GPU. Launches of a forward call: one that copies weights (and pads the input), and a
// product per layer; of a backward call: two products per layer (one for the first layer, if x
// needs no gradient), one mask with last_relu, and one copy if the input is padded. What cuBLASLt
// does not fuse to a product takes one or two small kernels more.
//
// In cuBLASLt's column-major terms, with row-major matrices read as their transposes:
//   forward          y' [n, B] = kernel' [n, k] x' [k, B], + bias, ReLU, bits of the ReLU
//   input gradient   dx' [k, B] = (kernel')^T dy' [n, B], times the bits of the layer below
//   weight gradient  dkernel' [n, k] = dy' [n, B] (x')^T, and the sums of dy' over B
#include "mlp/mlp_launchers.h"

// In angle brackets, as in cuda_elements.cuh.
#include <cuda_primitives.cuh>

#include <algorithm>
#include <vector>

#include "mlp/device_kernels.h"
#include "mlp/device_products.h"

namespace dlrm::gpu {
namespace {

constexpr int64_t kRowBytes = 16;  // rows of other lengths are slow to read
constexpr int64_t kAlignment = 256;

int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

bool aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

cudaError_t launched(cudaError_t status, const char* what) {
  return status == cudaSuccess ? status : failed(status, "%s: CUDA error %d", what, status);
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

cudaError_t check(const DlrmMlp* mlp) {
  clear_error();
  if (mlp == nullptr || mlp->widths == nullptr) {
    return failed(cudaErrorInvalidValue, "MLP: expected its shapes, found NULL");
  }
  if (mlp->batch < 0 || mlp->layers < 1) {
    return failed(cudaErrorInvalidValue,
                  "MLP: expected a batch >= 0 and at least one layer, found batch %lld, %d layers",
                  static_cast<long long>(mlp->batch), mlp->layers);
  }
  for (int l = 0; l <= mlp->layers; ++l) {
    if (mlp->widths[l] < 1) {
      return failed(cudaErrorInvalidValue, "MLP: expected widths >= 1, found widths[%d] = %lld", l,
                    static_cast<long long>(mlp->widths[l]));
    }
  }
  if (mlp->dtype != DLRM_FLOAT32 && mlp->dtype != DLRM_FLOAT16 && mlp->dtype != DLRM_BFLOAT16) {
    return failed(cudaErrorInvalidValue,
                  "MLP: expected dtype 0 (float32), 1 (float16) or 2 (bfloat16), found %d",
                  mlp->dtype);
  }
  return cudaSuccess;
}

cudaError_t check_alignment(const void* pointer, const char* name, int64_t bytes) {
  if (aligned(pointer, bytes)) return cudaSuccess;
  return failed(cudaErrorInvalidValue,
                "MLP: expected %s at a multiple of %lld bytes, found address %p", name,
                static_cast<long long>(bytes), pointer);
}

cudaError_t check_memory(const Workspace& needed, const void* saved, const void* workspace,
                         size_t workspace_bytes) {
  if (workspace_bytes < static_cast<size_t>(needed.bytes)) {
    return failed(cudaErrorInvalidValue,
                  "MLP: expected a workspace of at least %lld bytes, found %zu",
                  static_cast<long long>(needed.bytes), workspace_bytes);
  }
  const cudaError_t status = check_alignment(workspace, "workspace", kAlignment);
  return status != cudaSuccess ? status : check_alignment(saved, "saved", kAlignment);
}

// A call: its shapes and memory. Members of products are documented in device_products.h.
class Call {
 public:
  Call(const Shape& shape, const Saved& saved, void* product_workspace, cudaStream_t stream)
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

cudaError_t forward(const DlrmMlp& mlp, const void* x, const float* const* kernels,
                    const float* const* biases, void* const* hidden, void* y, void* saved_memory,
                    void* workspace_memory, size_t workspace_bytes, cudaStream_t stream) {
  const Shape shape(mlp);
  const bool training = saved_memory != nullptr;
  const Workspace workspace(shape, workspace_memory);
  cudaError_t status = check_memory(workspace, saved_memory, workspace_memory, workspace_bytes);
  if (status == cudaSuccess) status = check_alignment(x, "x", kRowBytes);
  if (status == cudaSuccess) status = check_alignment(y, "y", kRowBytes);
  for (int l = 0; training && l + 1 < shape.layers && status == cudaSuccess; ++l) {
    status = check_alignment(hidden[l], "hidden activations", kRowBytes);
  }
  if (status != cudaSuccess || shape.batch == 0) return status;
  const Saved saved(shape, training ? saved_memory : workspace.copies, training);
  const Call call(shape, saved, workspace.product, stream);
  status = call.copy(x, kernels, biases);
  const void* input = shape.padded() ? saved.input : x;
  for (int l = 0; l < shape.layers && status == cudaSuccess; ++l) {
    const bool last = l + 1 == shape.layers;
    void* output = last ? y : training ? hidden[l] : workspace.activations[l % 2];
    status = call.forward(l, input, call.kernel(l, kernels[l]), output, training && !last);
    input = output;
  }
  return status;
}

// The gradients of an empty batch.
cudaError_t clear_gradients(const Shape& shape, float* const* kernel_gradients,
                            float* const* bias_gradients, cudaStream_t stream) {
  cudaError_t status = cudaSuccess;
  for (int l = 0; l < shape.layers && status == cudaSuccess; ++l) {
    const auto n = static_cast<size_t>(shape.widths[l + 1]);
    const auto k = static_cast<size_t>(shape.widths[l]);
    status = clear_memory(kernel_gradients[l], k * n * sizeof(float), stream);
    if (status == cudaSuccess) {
      status = clear_memory(bias_gradients[l], n * sizeof(float), stream);
    }
  }
  return launched(status, "zero gradients");
}

cudaError_t backward(const DlrmMlp& mlp, const void* gradient, const void* y, const void* x,
                     const void* const* hidden, const float* const* kernels, const void* saved_copy,
                     void* x_gradient, float* const* kernel_gradients, float* const* bias_gradients,
                     void* workspace_memory, size_t workspace_bytes, cudaStream_t stream) {
  const Shape shape(mlp);
  const Workspace workspace(shape, workspace_memory);
  cudaError_t status = check_memory(workspace, saved_copy, workspace_memory, workspace_bytes);
  if (status == cudaSuccess) status = check_alignment(gradient, "gradient", kRowBytes);
  if (status == cudaSuccess && shape.last_relu) status = check_alignment(y, "y", kRowBytes);
  if (status == cudaSuccess) status = check_alignment(x, "x", kRowBytes);
  if (status == cudaSuccess) status = check_alignment(x_gradient, "x_gradient", kRowBytes);
  for (int l = 0; l + 1 < shape.layers && status == cudaSuccess; ++l) {
    status = check_alignment(hidden[l], "hidden activations", kRowBytes);
  }
  if (status != cudaSuccess) return status;
  if (shape.batch == 0) return clear_gradients(shape, kernel_gradients, bias_gradients, stream);
  if (saved_copy == nullptr) {
    return failed(cudaErrorInvalidValue, "MLP: expected `saved` of the forward call, found NULL");
  }
  // Products only read it.
  const Saved saved(shape, const_cast<void*>(saved_copy), true);
  const Call call(shape, saved, workspace.product, stream);
  if (shape.last_relu) {
    void* masked = workspace.activations[(shape.layers - 1) % 2];
    status = launched(mask_gradient(shape.dtype, gradient, y, masked,
                                    shape.batch * shape.widths[shape.layers], stream),
                      "mask of the gradient");
    gradient = masked;
  }
  for (int l = shape.layers - 1; l >= 0 && status == cudaSuccess; --l) {
    const bool padded = l == 0 && shape.padded();
    const void* input = l > 0 ? hidden[l - 1] : padded ? saved.input : x;
    float* target = padded ? workspace.first_gradient : kernel_gradients[l];
    status = call.weight_gradients(l, input, gradient, target, bias_gradients[l], workspace.sums);
    if (status == cudaSuccess && padded) {
      status = launched(
          copy_floats(target, kernel_gradients[0], shape.widths[0] * shape.widths[1], stream),
          "copy of the first kernel's gradient");
    }
    if (status != cudaSuccess) return status;
    const void* kernel = call.kernel(l, kernels[l]);
    if (l > 0) {
      void* below = workspace.activations[(l - 1) % 2];
      status = call.input_gradient(l, gradient, kernel, input, below);
      gradient = below;
    } else if (x_gradient != nullptr) {
      status =
          call.run(call.input_product(0, gradient, kernel, x_gradient, cublaslt::kEpilogueNone));
    }
  }
  return status;
}

}  // namespace
}  // namespace dlrm::gpu

extern "C" {

cudaError_t dlrm_mlp_saved_bytes(const DlrmMlp* mlp, size_t* bytes) {
  *bytes = 0;
  const cudaError_t status = dlrm::gpu::check(mlp);
  if (status != cudaSuccess) return status;
  const dlrm::gpu::Shape shape(*mlp);
  *bytes = static_cast<size_t>(dlrm::gpu::Saved(shape, nullptr, true).bytes);
  return cudaSuccess;
}

cudaError_t dlrm_mlp_workspace_bytes(const DlrmMlp* mlp, size_t* bytes) {
  *bytes = 0;
  const cudaError_t status = dlrm::gpu::check(mlp);
  if (status != cudaSuccess) return status;
  const dlrm::gpu::Shape shape(*mlp);
  *bytes = static_cast<size_t>(dlrm::gpu::Workspace(shape, nullptr).bytes);
  return cudaSuccess;
}

cudaError_t dlrm_mlp_forward(const DlrmMlp* mlp, const void* x, const float* const* kernels,
                             const float* const* biases, void* const* hidden, void* y, void* saved,
                             void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  const cudaError_t status = dlrm::gpu::check(mlp);
  if (status != cudaSuccess) return status;
  return dlrm::gpu::forward(*mlp, x, kernels, biases, hidden, y, saved, workspace, workspace_bytes,
                            stream);
}

cudaError_t dlrm_mlp_backward(const DlrmMlp* mlp, const void* gradient, const void* y,
                              const void* x, const void* const* hidden, const float* const* kernels,
                              const void* saved, void* x_gradient, float* const* kernel_gradients,
                              float* const* bias_gradients, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  const cudaError_t status = dlrm::gpu::check(mlp);
  if (status != cudaSuccess) return status;
  return dlrm::gpu::backward(*mlp, gradient, y, x, hidden, kernels, saved, x_gradient,
                             kernel_gradients, bias_gradients, workspace, workspace_bytes, stream);
}

const char* dlrm_mlp_error(void) { return dlrm::gpu::recorded_error(); }

}  // extern "C"
