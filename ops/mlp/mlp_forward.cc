// The forward kernel: each thread propagates its rows, chunk by chunk, through all layers.

#include "mlp/mlp_kernel.h"

namespace dlrm {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;

template <class T>
class MlpForward : public MlpKernel<T, MlpForward<T>> {
 public:
  using Base = MlpKernel<T, MlpForward<T>>;
  using S = typename Base::S;
  static constexpr bool kBackward = false;

  // float32 products pack the kernel at every call, which pays off only for many rows; bfloat16
  // products use a kernel that is packed once.
  static int64_t ChunkRows(size_t element_bytes, const std::vector<int64_t>&) {
    return element_bytes == 4 ? 1024 : 256;
  }

  explicit MlpForward(tensorflow::OpKernelConstruction* c) : Base(c) {
    OP_REQUIRES_OK(c, c->GetAttr("last_relu", &last_relu_));
  }

  void Compute(OpKernelContext* c) override {
    OpOutputList hidden;
    OP_REQUIRES_OK(c, c->output_list("hidden", &hidden));
    MlpForwardInputs inputs;
    OP_REQUIRES_OK(c, inputs.Open(c, hidden.size()));
    const std::vector<int64_t>& widths = inputs.widths;
    const int64_t batch = inputs.batch();
    Tensor* y = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, TensorShape({batch, widths.back()}), &y));
    for (int l = 0; l < hidden.size(); ++l) {
      Tensor* activations = nullptr;
      OP_REQUIRES_OK(c, hidden.allocate(l, TensorShape({batch, widths[l + 1]}), &activations));
      AdviseHugePages(activations->data(), activations->TotalBytes());
    }
    Tensor* saved = nullptr;  // only GPUs save more than the activations
    OP_REQUIRES_OK(c, c->allocate_output(1 + hidden.size(), TensorShape({0}), &saved));
    if (batch != 0) this->RunForBatch(c, widths, batch);
  }

  template <class C>
  void Run(OpKernelContext* c, const std::vector<int64_t>& widths, const BatchProducts& batch) {
    constexpr bool same = Base::template kSame<C>;
    const MlpFunctions<S, C> functions = Base::template Functions<C>();
    const Chunks& chunks = batch.chunks;
    OpInputList kernels, biases;
    OpOutputList hidden;
    OP_REQUIRES_OK(c, c->input_list("kernels", &kernels));
    OP_REQUIRES_OK(c, c->input_list("biases", &biases));
    OP_REQUIRES_OK(c, c->output_list("hidden", &hidden));
    const int layers = kernels.size();
    PackedKernels packed;
    OP_REQUIRES_OK(c, packed.Pack(c, *batch.products, kernels, same ? nullptr : functions.round));

    // Per slot: two alternating buffers for activations that no output holds, and oneDNN's scratch.
    const int64_t widest = *std::max_element(widths.begin(), widths.end());
    const size_t buffer = Lines(chunks.rows * widest * sizeof(C));
    SlotMemory memory;
    OP_REQUIRES_OK(
        c, memory.Allocate(c, chunks.slots, 2 * buffer + Lines(batch.products->scratch_bytes())));
    const S* x = ElementsOf<S>(c->input(0));
    S* y = MutableElementsOf<S>(*c->mutable_output(0));
    std::vector<S*> kept(layers);
    for (int l = 0; l < hidden.size(); ++l) kept[l] = MutableElementsOf<S>(*hidden[l]);
    kept[layers - 1] = y;

    OP_REQUIRES_OK(
        c, RunSlots(c, chunks.slots, [&](int64_t slot) {
          char* own = memory.of(slot);
          void* scratch = own + 2 * buffer;
          for (int64_t chunk = chunks.First(slot); chunk < chunks.First(slot + 1); ++chunk) {
            const int64_t begin = chunk * chunks.rows, rows = chunks.Rows(chunk);
            const C* in;
            if constexpr (same) {
              in = x + begin * widths[0];
            } else {
              C* loaded = reinterpret_cast<C*>(own + buffer);
              functions.load(x + begin * widths[0], rows * widths[0], loaded);
              in = loaded;
            }
            for (int l = 0; l < layers; ++l) {
              S* keep = kept[l] == nullptr ? nullptr : kept[l] + begin * widths[l + 1];
              C* out = reinterpret_cast<C*>(own + (l % 2) * buffer);
              if constexpr (same) {
                if (keep != nullptr) out = keep;
              }
              batch.products->layers()[l].kernel[batch.Size(chunk)].Run(
                  in, packed.of(l), biases[l].template flat<float>().data(), out, scratch);
              const bool relu = l + 1 < layers || last_relu_;
              if (relu || !same) functions.finish(out, rows * widths[l + 1], relu, keep);
              in = out;
            }
          }
        }));
  }

 private:
  bool last_relu_;
};

REGISTER_KERNEL_BUILDER(
    Name("Dlrm>MlpForward").Device(tensorflow::DEVICE_CPU).TypeConstraint<float>("T"),
    MlpForward<float>);
REGISTER_KERNEL_BUILDER(Name("Dlrm>MlpForward")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint<tensorflow::bfloat16>("T"),
                        MlpForward<tensorflow::bfloat16>);

}  // namespace
}  // namespace dlrm
