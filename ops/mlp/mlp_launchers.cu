// The MLP on a GPU. Launches of a forward call: one that copies weights (and pads the input), and a
// product per layer; of a backward call: two products per layer (one for the first layer, if x
// needs no gradient), one mask with last_relu, and one copy if the input is padded. What cuBLASLt
// does not fuse to a product takes one or two small kernels more.
#include "mlp/mlp_launchers.h"

// In angle brackets, as in cuda_elements.cuh.
#include <cuda_primitives.cuh>

#include "mlp/device_layers.h"

namespace dlrm::gpu::mlp {
namespace {

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
  const Layers layers(shape, saved, workspace.product, stream);
  status = layers.copy(x, kernels, biases);
  const void* input = shape.padded() ? saved.input : x;
  for (int l = 0; l < shape.layers && status == cudaSuccess; ++l) {
    const bool last = l + 1 == shape.layers;
    void* output = last ? y : training ? hidden[l] : workspace.activations[l % 2];
    status = layers.forward(l, input, layers.kernel(l, kernels[l]), output, training && !last);
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
  const Layers layers(shape, saved, workspace.product, stream);
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
    status = layers.weight_gradients(l, input, gradient, target, bias_gradients[l], workspace.sums);
    if (status == cudaSuccess && padded) {
      status = launched(
          copy_floats(target, kernel_gradients[0], shape.widths[0] * shape.widths[1], stream),
          "copy of the first kernel's gradient");
    }
    if (status != cudaSuccess) return status;
    const void* kernel = layers.kernel(l, kernels[l]);
    if (l > 0) {
      void* below = workspace.activations[(l - 1) % 2];
      status = layers.input_gradient(l, gradient, kernel, input, below);
      gradient = below;
    } else if (x_gradient != nullptr) {
      status = layers.run(
          layers.input_product(0, gradient, kernel, x_gradient, cublaslt::kEpilogueNone));
    }
  }
  return status;
}

}  // namespace
}  // namespace dlrm::gpu::mlp

extern "C" {

cudaError_t dlrm_mlp_saved_bytes(const DlrmMlp* mlp, size_t* bytes) {
  *bytes = 0;
  const cudaError_t status = dlrm::gpu::mlp::check(mlp);
  if (status != cudaSuccess) return status;
  const dlrm::gpu::mlp::Shape shape(*mlp);
  *bytes = static_cast<size_t>(dlrm::gpu::mlp::Saved(shape, nullptr, true).bytes);
  return cudaSuccess;
}

cudaError_t dlrm_mlp_workspace_bytes(const DlrmMlp* mlp, size_t* bytes) {
  *bytes = 0;
  const cudaError_t status = dlrm::gpu::mlp::check(mlp);
  if (status != cudaSuccess) return status;
  const dlrm::gpu::mlp::Shape shape(*mlp);
  *bytes = static_cast<size_t>(dlrm::gpu::mlp::Workspace(shape, nullptr).bytes);
  return cudaSuccess;
}

cudaError_t dlrm_mlp_forward(const DlrmMlp* mlp, const void* x, const float* const* kernels,
                             const float* const* biases, void* const* hidden, void* y, void* saved,
                             void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  const cudaError_t status = dlrm::gpu::mlp::check(mlp);
  if (status != cudaSuccess) return status;
  return dlrm::gpu::mlp::forward(*mlp, x, kernels, biases, hidden, y, saved, workspace,
                                 workspace_bytes, stream);
}

cudaError_t dlrm_mlp_backward(const DlrmMlp* mlp, const void* gradient, const void* y,
                              const void* x, const void* const* hidden, const float* const* kernels,
                              const void* saved, void* x_gradient, float* const* kernel_gradients,
                              float* const* bias_gradients, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  const cudaError_t status = dlrm::gpu::mlp::check(mlp);
  if (status != cudaSuccess) return status;
  return dlrm::gpu::mlp::backward(*mlp, gradient, y, x, hidden, kernels, saved, x_gradient,
                                  kernel_gradients, bias_gradients, workspace, workspace_bytes,
                                  stream);
}

const char* dlrm_mlp_error(void) { return dlrm::gpu::mlp::recorded_error(); }

}  // extern "C"
