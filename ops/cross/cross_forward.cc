// The forward kernel: each thread propagates its rows, chunk by chunk, through all layers.
//
// For the gradient it keeps z of each layer, not the layers' inputs x, which follow from x0 and z
// without a product.
//
// The products are those of an MLP of widths n, r, n, r, n, ..., so both kernels are built on the
// MLP's base class.

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
class CrossForward : public MlpKernel<T, CrossForward<T>> {
 public:
  using Base = MlpKernel<T, CrossForward<T>>;
  using S = typename Base::S;
  using Base::Base;
  static constexpr bool kBackward = false;

  // As for MLPs: float32 products may pack the kernel at every call, which pays off only for many
  // rows; bfloat16 products use a kernel that is packed once.
  static int64_t ChunkRows(size_t element_bytes, const std::vector<int64_t>&) {
    return element_bytes == 4 ? 1024 : 256;
  }

  void Compute(OpKernelContext* c) override {
    const Tensor& x0 = c->input(0);
    OpInputList biases;
    OpOutputList inner, outer;
    OP_REQUIRES_OK(c, c->input_list("biases", &biases));
    OP_REQUIRES_OK(c, c->output_list("inner", &inner));
    OP_REQUIRES_OK(c, c->output_list("outer", &outer));
    CrossWeights weights;
    OP_REQUIRES_OK(c, weights.Open(c, x0, biases.size()));
    for (const Tensor& bias : biases) {
      OP_REQUIRES(c, bias.shape() == TensorShape({weights.width()}),
                  InvalidArgument("cross network: expected biases [", weights.width(),
                                  "], found shape ", bias.shape().DebugString()));
    }
    const int ranks = weights.kernels.size() - weights.layers;
    OP_REQUIRES(c,
                (inner.size() == ranks && outer.size() == weights.layers) ||
                    (inner.size() == 0 && outer.size() == 0),
                InvalidArgument("cross network: expected I = ", ranks, " and M = ", weights.layers,
                                ", or 0 and 0, found ", inner.size(), " and ", outer.size()));
    Tensor* y = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, x0.shape(), &y));
    AdviseHugePages(y->data(), y->TotalBytes());
    const int64_t batch = x0.dim_size(0);
    for (int l = 0; l < outer.size(); ++l) {
      Tensor* kept = nullptr;
      if (weights.low_rank()) {
        OP_REQUIRES_OK(c, inner.allocate(l, TensorShape({batch, weights.rank(l)}), &kept));
        AdviseHugePages(kept->data(), kept->TotalBytes());
      }
      OP_REQUIRES_OK(c, outer.allocate(l, x0.shape(), &kept));
      AdviseHugePages(kept->data(), kept->TotalBytes());
    }
    if (batch != 0) this->RunForBatch(c, weights.widths, batch);
  }

  template <class C>
  void Run(OpKernelContext* c, const std::vector<int64_t>& widths, const BatchProducts& batch) {
    constexpr bool same = Base::template kSame<C>;
    const MlpFunctions<S, C> functions = Base::template Functions<C>();
    const CrossFunctions<S, C> cross = CrossFunctionsFor<S, C>(CurrentInstructionSet());
    const Chunks& chunks = batch.chunks;
    OpInputList biases;
    OpOutputList inner, outer;
    OP_REQUIRES_OK(c, c->input_list("biases", &biases));
    OP_REQUIRES_OK(c, c->output_list("inner", &inner));
    OP_REQUIRES_OK(c, c->output_list("outer", &outer));
    CrossWeights weights;
    OP_REQUIRES_OK(c, weights.Open(c, c->input(0), biases.size()));
    PackedKernels packed;
    OP_REQUIRES_OK(
        c, packed.Pack(c, *batch.products, weights.kernels, same ? nullptr : functions.round));

    // Per slot: x, z and x V, as far as no output holds them, and oneDNN's scratch memory.
    const bool keeps = outer.size() != 0, in_place = same && keeps;
    const int64_t width = weights.width(), rank = weights.most_rank();
    const size_t x_bytes = Lines(chunks.rows * width * sizeof(C));
    const size_t z_bytes = in_place ? 0 : x_bytes;
    const size_t u_bytes = in_place ? 0 : Lines(chunks.rows * rank * sizeof(C));
    const size_t buffers = x_bytes + z_bytes + u_bytes;
    SlotMemory memory;
    OP_REQUIRES_OK(
        c, memory.Allocate(c, chunks.slots, buffers + Lines(batch.products->scratch_bytes())));
    const std::vector<float> no_bias(rank, 0.0f);
    const S* x0 = ElementsOf<S>(c->input(0));
    S* y = MutableElementsOf<S>(*c->mutable_output(0));
    std::vector<S*> kept_u(weights.layers), kept_z(weights.layers);
    for (int l = 0; l < outer.size(); ++l) {
      if (weights.low_rank()) kept_u[l] = MutableElementsOf<S>(*inner[l]);
      kept_z[l] = MutableElementsOf<S>(*outer[l]);
    }

    const auto work = [&](int64_t slot) {
      char* own = memory.of(slot);
      C* const own_x = reinterpret_cast<C*>(own);
      C* const own_z = reinterpret_cast<C*>(own + x_bytes);
      C* const own_u = reinterpret_cast<C*>(own + x_bytes + z_bytes);
      void* scratch = own + buffers;
      for (int64_t chunk = chunks.First(slot); chunk < chunks.First(slot + 1); ++chunk) {
        const int64_t begin = chunk * chunks.rows, rows = chunks.Rows(chunk), count = rows * width;
        const int size = batch.Size(chunk);
        const S* first = x0 + begin * width;
        const C* x = own_x;
        if constexpr (same) {
          x = first;
        } else {
          functions.load(first, count, own_x);
        }
        for (int l = 0; l < weights.layers; ++l) {
          const auto& products = batch.products->layers();
          const int outer_product = weights.outer(l);
          const C* operand = x;
          if (weights.low_rank()) {
            S* keep = keeps ? kept_u[l] + begin * weights.rank(l) : nullptr;
            C* u = own_u;
            if constexpr (same) {
              if (keeps) u = keep;
            }
            products[outer_product - 1].kernel[size].Run(x, packed.of(outer_product - 1),
                                                         no_bias.data(), u, scratch);
            if (!same) functions.finish(u, rows * weights.rank(l), false, keep);
            operand = u;
          }
          S* keep = keeps ? kept_z[l] + begin * width : nullptr;
          C* z = own_z;
          if constexpr (same) {
            if (keeps) z = keep;
          }
          products[outer_product].kernel[size].Run(operand, packed.of(outer_product),
                                                   biases[l].template flat<float>().data(), z,
                                                   scratch);
          S* result = l + 1 == weights.layers ? y + begin * width : nullptr;
          if constexpr (same) {
            C* out = result != nullptr ? result : own_x;
            cross.combine(first, z, x, count, out, nullptr, nullptr);
          } else {
            cross.combine(first, z, x, count, own_x, keep, result);
          }
          x = own_x;
        }
      }
    };
    OP_REQUIRES_OK(c, RunSlots(c, chunks.slots, work));
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Dlrm>CrossForward").Device(tensorflow::DEVICE_CPU).TypeConstraint<float>("T"),
    CrossForward<float>);
REGISTER_KERNEL_BUILDER(Name("Dlrm>CrossForward")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint<tensorflow::bfloat16>("T"),
                        CrossForward<tensorflow::bfloat16>);

}  // namespace
}  // namespace dlrm
