// The backward kernel: each thread propagates its rows, chunk by chunk, back through all layers and
// accumulates its own kernel and bias gradients. These are then summed in a fixed order.

#include <cstring>

#include "mlp/mlp_kernel.h"

namespace dlrm {
namespace {

using tensorflow::OpInputList;
using tensorflow::OpKernelContext;
using tensorflow::OpOutputList;
using tensorflow::Tensor;
using tensorflow::TensorShape;

template <class T>
class MlpBackward : public MlpKernel<T, MlpBackward<T>> {
 public:
  using Base = MlpKernel<T, MlpBackward<T>>;
  using S = typename Base::S;
  static constexpr bool kBackward = true;
  static constexpr int64_t kMostSumBytes = 512ll << 20;

  static int64_t ChunkRows(size_t, const std::vector<int64_t>&) { return 1024; }

  explicit MlpBackward(tensorflow::OpKernelConstruction* c) : Base(c) {
    OP_REQUIRES_OK(c, c->GetAttr("last_relu", &last_relu_));
    OP_REQUIRES_OK(c, c->GetAttr("input_gradient", &input_gradient_));
  }

  void Compute(OpKernelContext* c) override {
    MlpBackwardInputs inputs;
    OP_REQUIRES_OK(c, inputs.Open(c));
    const Tensor& x = *inputs.x;
    const std::vector<int64_t>& widths = inputs.widths;
    const int64_t batch = inputs.batch();
    Tensor* x_gradient = nullptr;
    OP_REQUIRES_OK(
        c, c->allocate_output(0, input_gradient_ ? x.shape() : TensorShape({0, x.dim_size(1)}),
                              &x_gradient));
    AdviseHugePages(x_gradient->data(), x_gradient->TotalBytes());
    OpOutputList kernel_gradients, bias_gradients;
    OP_REQUIRES_OK(c, c->output_list("kernel_gradients", &kernel_gradients));
    OP_REQUIRES_OK(c, c->output_list("bias_gradients", &bias_gradients));
    for (int l = 0; l < inputs.layers(); ++l) {
      Tensor *kernel = nullptr, *bias = nullptr;
      OP_REQUIRES_OK(c, kernel_gradients.allocate(l, inputs.kernels[l].shape(), &kernel));
      OP_REQUIRES_OK(c, bias_gradients.allocate(l, TensorShape({widths[l + 1]}), &bias));
      std::memset(bias->data(), 0, bias->TotalBytes());
      if (batch == 0) std::memset(kernel->data(), 0, kernel->TotalBytes());
    }
    if (batch != 0) this->RunForBatch(c, widths, batch);
  }

  template <class C>
  void Run(OpKernelContext* c, const std::vector<int64_t>& widths, const BatchProducts& batch) {
    constexpr bool same = Base::template kSame<C>;
    const MlpFunctions<S, C> functions = Base::template Functions<C>();
    const Chunks& chunks = batch.chunks;
    OpInputList kernels, hidden;
    OpOutputList kernel_gradients, bias_gradients;
    OP_REQUIRES_OK(c, c->input_list("kernels", &kernels));
    OP_REQUIRES_OK(c, c->input_list("hidden", &hidden));
    OP_REQUIRES_OK(c, c->output_list("kernel_gradients", &kernel_gradients));
    OP_REQUIRES_OK(c, c->output_list("bias_gradients", &bias_gradients));
    const int layers = kernels.size();
    PackedKernels packed;
    OP_REQUIRES_OK(c, packed.Pack(c, *batch.products, kernels, same ? nullptr : functions.round));
    std::vector<Tensor*> gradients;  // of kernel 0, bias 0, kernel 1, ...
    for (int l = 0; l < layers; ++l) {
      gradients.insert(gradients.end(), {kernel_gradients[l], bias_gradients[l]});
    }
    GradientSums sums;
    OP_REQUIRES_OK(c, sums.Allocate(c, chunks.slots, gradients));

    // Per slot: the gradients of a layer's outputs and inputs, the layer's inputs converted to C,
    // and oneDNN's scratch memory.
    const int64_t widest = *std::max_element(widths.begin(), widths.end());
    const size_t buffer = Lines(chunks.rows * widest * sizeof(C));
    const size_t buffers = (same ? 2 : 3) * buffer;
    SlotMemory memory;
    OP_REQUIRES_OK(
        c, memory.Allocate(c, chunks.slots, buffers + Lines(batch.products->scratch_bytes())));
    std::vector<const S*> inputs(1, ElementsOf<S>(c->input(2)));
    for (const Tensor& activations : hidden) inputs.push_back(ElementsOf<S>(activations));
    const S* gradient = ElementsOf<S>(c->input(0));
    const S* y = last_relu_ ? ElementsOf<S>(c->input(1)) : nullptr;
    S* x_gradient = MutableElementsOf<S>(*c->mutable_output(0));

    const auto work = [&](int64_t slot) {
      const std::vector<float*>& own_sums = sums.of(slot);
      for (int l = 0; l < layers; ++l) {
        std::fill_n(own_sums[2 * l + 1], widths[l + 1], 0.0f);
      }
      char* own = memory.of(slot);
      void* scratch = own + buffers;
      const int64_t first = chunks.First(slot);
      for (int64_t chunk = first; chunk < chunks.First(slot + 1); ++chunk) {
        const int64_t begin = chunk * chunks.rows, rows = chunks.Rows(chunk);
        const int size = batch.Size(chunk);
        C* outputs = reinterpret_cast<C*>(own);  // the gradient of a layer's outputs, masked
        C* next = reinterpret_cast<C*>(own + buffer);
        const int64_t last = widths[layers];
        const S* top = gradient + begin * last;
        const C* from;
        if constexpr (same) {
          from = top;
        } else {
          functions.load(top, rows * last, outputs);
          from = outputs;
        }
        functions.mask(from, y == nullptr ? nullptr : y + begin * last, rows, last, outputs,
                       own_sums[2 * layers - 1]);
        for (int l = layers - 1; l >= 0; --l) {
          const MlpProducts::Layer& layer = batch.products->layers()[l];
          const S* input = inputs[l] + begin * widths[l];
          const C* operand;
          if constexpr (same) {
            operand = input;
          } else {
            C* loaded = reinterpret_cast<C*>(own + 2 * buffer);
            functions.load(input, rows * widths[l], loaded);
            operand = loaded;
          }
          (chunk == first ? layer.first : layer.more)[size].Run(operand, outputs, own_sums[2 * l],
                                                                scratch);
          if (l == 0 && !input_gradient_) continue;
          S* result = x_gradient + begin * widths[0];
          C* to = next;
          if constexpr (same) {
            if (l == 0) to = result;
          }
          layer.kernel[size].Run(outputs, packed.of(l), nullptr, to, scratch);
          if (l > 0) {
            functions.mask(next, input, rows, widths[l], next, own_sums[2 * l - 1]);
            std::swap(outputs, next);
          } else if constexpr (!same) {
            functions.store(next, rows * widths[0], result);
          }
        }
      }
    };
    OP_REQUIRES_OK(c, RunSlots(c, chunks.slots, work));
    sums.AddUp(c);
  }

 private:
  bool last_relu_, input_gradient_;
};

REGISTER_KERNEL_BUILDER(
    Name("Dlrm>MlpBackward").Device(tensorflow::DEVICE_CPU).TypeConstraint<float>("T"),
    MlpBackward<float>);
REGISTER_KERNEL_BUILDER(Name("Dlrm>MlpBackward")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint<tensorflow::bfloat16>("T"),
                        MlpBackward<tensorflow::bfloat16>);

}  // namespace
}  // namespace dlrm
