// The backward kernel: each thread propagates its rows, chunk by chunk, back through all layers and
// accumulates its own kernel and bias gradients. These are then summed in a fixed order.
//
// With g the gradient of a layer's result x0 * z + x, z = u W + bias, u = x V:
//   gradient of z: g * x0        of bias: its columns' sums     of W: u^T (g * x0)
//   gradient of u: (g * x0) W^T  of V: x^T (gradient of u)      of x: g + (gradient of u) V^T
//   gradient of x0: the sum of g * z over all layers, plus the gradient of the first layer's x.

#include <cstring>

#include "cross/cross_cpu.h"
#include "cross/cross_shapes.h"
#include "mlp/mlp_kernel.h"

namespace dlrm {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;

template <class T>
class CrossBackward : public MlpKernel<T, CrossBackward<T>> {
 public:
  using Base = MlpKernel<T, CrossBackward<T>>;
  using S = typename Base::S;
  using Base::Base;
  static constexpr bool kBackward = true;
  static constexpr int64_t kMostSumBytes = 4ll << 30;

  // At least twice those of bfloat16 forward: each chunk adds to sums as large as the kernels.
  static int64_t ChunkRows(size_t element_bytes, const std::vector<int64_t>&) {
    return element_bytes == 4 ? 1024 : 512;
  }

  void Compute(OpKernelContext* c) override {
    const Tensor &gradient = c->input(0), &x0 = c->input(1);
    OpInputList inner, outer;
    OpOutputList kernel_gradients, bias_gradients;
    OP_REQUIRES_OK(c, c->input_list("inner", &inner));
    OP_REQUIRES_OK(c, c->input_list("outer", &outer));
    OP_REQUIRES_OK(c, c->output_list("kernel_gradients", &kernel_gradients));
    OP_REQUIRES_OK(c, c->output_list("bias_gradients", &bias_gradients));
    CrossWeights weights;
    OP_REQUIRES_OK(c, weights.Open(c, x0, outer.size()));
    const int64_t batch = x0.dim_size(0), width = weights.width();
    const int ranks = weights.kernels.size() - weights.layers;
    OP_REQUIRES(
        c, inner.size() == ranks,
        InvalidArgument("cross network gradient: expected I = ", ranks, ", found ", inner.size()));
    OP_REQUIRES_OK(c, CheckMatrix("gradient", gradient, batch, width));
    for (int l = 0; l < weights.layers; ++l) {
      OP_REQUIRES_OK(c, CheckMatrix("outer", outer[l], batch, width));
      if (!weights.low_rank()) continue;
      OP_REQUIRES_OK(c, CheckMatrix("inner", inner[l], batch, weights.rank(l)));
    }
    Tensor* x0_gradient = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, x0.shape(), &x0_gradient));
    AdviseHugePages(x0_gradient->data(), x0_gradient->TotalBytes());
    for (int k = 0; k < weights.kernels.size(); ++k) {
      Tensor* kernel = nullptr;
      OP_REQUIRES_OK(c, kernel_gradients.allocate(k, weights.kernels[k].shape(), &kernel));
      if (batch == 0) std::memset(kernel->data(), 0, kernel->TotalBytes());
    }
    for (int l = 0; l < weights.layers; ++l) {
      Tensor* bias = nullptr;
      OP_REQUIRES_OK(c, bias_gradients.allocate(l, TensorShape({width}), &bias));
      if (batch == 0) std::memset(bias->data(), 0, bias->TotalBytes());
    }
    if (batch != 0) this->RunForBatch(c, weights.widths, batch);
  }

  template <class C>
  void Run(OpKernelContext* c, const std::vector<int64_t>& widths, const BatchProducts& batch) {
    constexpr bool same = Base::template kSame<C>;
    const MlpFunctions<S, C> functions = Base::template Functions<C>();
    const CrossFunctions<S, C> cross = CrossFunctionsFor<S, C>(CurrentInstructionSet());
    const Chunks& chunks = batch.chunks;
    OpInputList inner, outer;
    OpOutputList kernel_gradients, bias_gradients;
    OP_REQUIRES_OK(c, c->input_list("inner", &inner));
    OP_REQUIRES_OK(c, c->input_list("outer", &outer));
    OP_REQUIRES_OK(c, c->output_list("kernel_gradients", &kernel_gradients));
    OP_REQUIRES_OK(c, c->output_list("bias_gradients", &bias_gradients));
    CrossWeights weights;
    OP_REQUIRES_OK(c, weights.Open(c, c->input(1), outer.size()));
    PackedKernels packed;
    OP_REQUIRES_OK(
        c, packed.Pack(c, *batch.products, weights.kernels, same ? nullptr : functions.round));
    const int kernels = weights.kernels.size();
    std::vector<Tensor*> gradients;
    for (int k = 0; k < kernels; ++k) gradients.push_back(kernel_gradients[k]);
    for (int l = 0; l < weights.layers; ++l) gradients.push_back(bias_gradients[l]);
    GradientSums sums;
    OP_REQUIRES_OK(c, sums.Allocate(c, chunks.slots, gradients));

    // Per slot: the gradient of a layer's result; that of z, then the layer's input, then a part of
    // its gradient; the gradient of x0 unless the output holds it; the gradient of x V (full rank:
    // the layer's input); x V if it must be converted; oneDNN's scratch memory.
    const int64_t width = weights.width(), rank = weights.most_rank();
    const size_t wide = Lines(chunks.rows * width * sizeof(C));
    const size_t narrow = Lines(chunks.rows * (weights.low_rank() ? rank : width) * sizeof(C));
    const size_t buffers = (same ? 2 : 3) * wide + (same ? 1 : 2) * narrow;
    SlotMemory memory;
    OP_REQUIRES_OK(
        c, memory.Allocate(c, chunks.slots, buffers + Lines(batch.products->scratch_bytes())));
    const S* gradient = ElementsOf<S>(c->input(0));
    const S* x0 = ElementsOf<S>(c->input(1));
    S* x0_gradient = MutableElementsOf<S>(*c->mutable_output(0));
    std::vector<const S*> kept_u, kept_z;
    for (const Tensor& tensor : inner) kept_u.push_back(ElementsOf<S>(tensor));
    for (const Tensor& tensor : outer) kept_z.push_back(ElementsOf<S>(tensor));

    const auto work = [&](int64_t slot) {
      const std::vector<float*>& own_sums = sums.of(slot);
      for (int l = 0; l < weights.layers; ++l) std::fill_n(own_sums[kernels + l], width, 0.0f);
      char* own = memory.of(slot);
      C* const sum = reinterpret_cast<C*>(own);
      C* shared = reinterpret_cast<C*>(own + wide);
      C* u_gradient = reinterpret_cast<C*>(own + (same ? 2 : 3) * wide);
      void* scratch = own + buffers;
      const int64_t first_chunk = chunks.First(slot);
      std::vector<const S*> z(weights.layers);
      for (int64_t chunk = first_chunk; chunk < chunks.First(slot + 1); ++chunk) {
        const int64_t begin = chunk * chunks.rows, rows = chunks.Rows(chunk), count = rows * width;
        const int size = batch.Size(chunk);
        const S* first = x0 + begin * width;
        for (int l = 0; l < weights.layers; ++l) z[l] = kept_z[l] + begin * width;
        const C* g;
        C* total;  // the gradient of x0
        if constexpr (same) {
          g = gradient + begin * width;
          total = x0_gradient + begin * width;
        } else {
          functions.load(gradient + begin * width, count, sum);
          g = sum;
          total = reinterpret_cast<C*>(own + 2 * wide);
        }
        for (int l = weights.layers - 1; l >= 0; --l) {
          const bool last = l + 1 == weights.layers;
          cross.gradients(g, last ? nullptr : shared, first, z[l], rows, width, sum, shared, total,
                          last, own_sums[kernels + l]);
          g = sum;
          // The gradients of a kernel and of its operand, both from that of its product.
          const auto kernel_gradient = [&](int product, const C* operand, const C* of_product) {
            const MlpProducts::Layer& layer = batch.products->layers()[product];
            (chunk == first_chunk ? layer.first : layer.more)[size].Run(operand, of_product,
                                                                        own_sums[product], scratch);
          };
          const auto operand_gradient = [&](int product, const C* of_product, C* out) {
            batch.products->layers()[product].kernel[size].Run(of_product, packed.of(product),
                                                               nullptr, out, scratch);
          };
          const auto input = [&](C* buffer) -> const C* {
            if constexpr (same) {
              if (l == 0) return first;
            }
            cross.state(first, z.data(), l, count, buffer);
            return buffer;
          };
          const int product = weights.outer(l);
          if (!weights.low_rank()) {
            // `shared` is the gradient of z, so the layer's input needs a buffer of its own.
            kernel_gradient(product, input(u_gradient), shared);
            operand_gradient(product, shared, u_gradient);
            std::swap(shared, u_gradient);
            continue;
          }
          const int64_t inner_count = rows * weights.rank(l);
          const C* u;
          if constexpr (same) {
            u = kept_u[l] + begin * weights.rank(l);
          } else {
            C* const loaded = reinterpret_cast<C*>(own + 3 * wide + narrow);
            functions.load(kept_u[l] + begin * weights.rank(l), inner_count, loaded);
            u = loaded;
          }
          kernel_gradient(product, u, shared);
          operand_gradient(product, shared, u_gradient);
          if (!same) functions.finish(u_gradient, inner_count, false, nullptr);
          kernel_gradient(product - 1, input(shared), u_gradient);
          operand_gradient(product - 1, u_gradient, shared);
        }
        cross.add(sum, shared, total, count, x0_gradient + begin * width);
      }
    };
    OP_REQUIRES_OK(c, RunSlots(c, chunks.slots, work));
    sums.AddUp(c);
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Dlrm>CrossBackward").Device(tensorflow::DEVICE_CPU).TypeConstraint<float>("T"),
    CrossBackward<float>);
REGISTER_KERNEL_BUILDER(Name("Dlrm>CrossBackward")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint<tensorflow::bfloat16>("T"),
                        CrossBackward<tensorflow::bfloat16>);

}  // namespace
}  // namespace dlrm
