// TensorFlow's CPU kernels of the dot interaction: input checks, threads, choice of function.

#include <memory>
#include <type_traits>

#include "cpu/huge_pages.h"
#include "cpu/tensor_elements.h"
#include "dot_interaction/dot_interaction_cpu.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/register_types.h"
#include "tensorflow/core/util/work_sharder.h"

namespace dlrm {

template <class T>
DotInteractionFunctions<T> DotInteractionFor(InstructionSet set) {
  switch (set) {
    case InstructionSet::kBf16:
#if defined(DLRM_HAVE_BF16)
      if constexpr (std::is_same_v<T, Bf16>) return bf16::DotInteraction();
#endif
      [[fallthrough]];
    case InstructionSet::kAvx512:
#if defined(DLRM_HAVE_AVX512)
      return avx512::DotInteraction<T>();
#endif
    case InstructionSet::kAvx2:
#if defined(DLRM_HAVE_AVX2)
      return avx2::DotInteraction<T>();
#endif
    case InstructionSet::kPortable:
      break;
  }
  return portable::DotInteraction<T>();
}

template DotInteractionFunctions<float> DotInteractionFor<float>(InstructionSet);
template DotInteractionFunctions<Bf16> DotInteractionFor<Bf16>(InstructionSet);
template DotInteractionFunctions<Half> DotInteractionFor<Half>(InstructionSet);

namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Status;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::errors::InvalidArgument;

struct ScratchDeleter {
  void operator()(void* p) const { tensorflow::port::AlignedFree(p); }
};

template <class T>
class DotInteractionKernel : public OpKernel {
 public:
  using Element = typename NativeElement<T>::Type;
  using Functions = DotInteractionFunctions<Element>;

  explicit DotInteractionKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES(c, InstructionSetError()[0] == '\0', InvalidArgument(InstructionSetError()));
  }

 protected:
  struct Batch {
    DotInteractionShape shape;
    int64_t size;
  };

  static const Element* Data(const Tensor& t) { return ElementsOf<Element>(t); }
  static Element* MutableData(Tensor* t) { return MutableElementsOf<Element>(*t); }

  // The elements of an output that is about to be written, which may lie in fresh memory: its page
  // faults would cost as much as the products.
  static Element* OutputData(Tensor* t) {
    AdviseHugePages(MutableData(t), t->TotalBytes());
    return MutableData(t);
  }

  static Status MakeBatch(int64_t size, int64_t features, int64_t dimension, Batch* batch) {
    if (features < 1 || dimension < 1) {
      return InvalidArgument("the dot interaction needs at least 1 feature of dimension 1, got ",
                             features, " of dimension ", dimension);
    }
    const int64_t used = dimension + features * (features - 1) / 2;
    *batch = {{features, dimension, (used + 7) / 8 * 8}, size};
    return Status();
  }

  static Status StackedBatch(const Tensor& features, Batch* batch) {
    if (features.dims() != 3) {
      return InvalidArgument("features must be [B, F, D], got shape ",
                             features.shape().DebugString());
    }
    return MakeBatch(features.dim_size(0), features.dim_size(1), features.dim_size(2), batch);
  }

  static Status SplitBatch(const Tensor& bottom, const Tensor& vectors, Batch* batch) {
    if (bottom.dims() != 2 || vectors.dims() != 3 || bottom.dim_size(0) != vectors.dim_size(0) ||
        bottom.dim_size(1) != vectors.dim_size(2)) {
      return InvalidArgument("bottom must be [B, D] and vectors [B, T, D] with equal B and D, got ",
                             bottom.shape().DebugString(), " and ", vectors.shape().DebugString());
    }
    return MakeBatch(bottom.dim_size(0), vectors.dim_size(1) + 1, bottom.dim_size(1), batch);
  }

  static Status CheckGradient(const Tensor& gradient, const Batch& batch) {
    if (gradient.dims() != 2 || gradient.dim_size(0) != batch.size ||
        gradient.dim_size(1) != batch.shape.width) {
      return InvalidArgument("gradient must be [", batch.size, ", ", batch.shape.width, "] for ",
                             batch.shape.features, " features of dimension ",
                             batch.shape.dimension, ", got ", gradient.shape().DebugString());
    }
    return Status();
  }

  template <class E>
  static FeatureRows<E> Stacked(E* data, const Batch& batch) {
    const int64_t stride = batch.shape.features * batch.shape.dimension;
    return {data, data + batch.shape.dimension, stride, stride};
  }
  template <class E>
  static FeatureRows<E> Split(E* bottom, E* vectors, const Batch& batch) {
    const int64_t D = batch.shape.dimension;
    return {bottom, vectors, D, (batch.shape.features - 1) * D};
  }

  // Runs work(functions, begin, end, scratch) over the batch on TensorFlow's threads.
  // `passes` is how often a sample's products are formed.
  template <class Work>
  static void Parallel(OpKernelContext* c, const Batch& batch, int passes, const Work& work) {
    if (batch.size == 0) return;
    const Functions functions = DotInteractionFor<Element>(CurrentInstructionSet());
    const size_t scratch_bytes = functions.scratch_bytes(batch.shape);
    const DotInteractionShape& shape = batch.shape;
    const int64_t products = shape.features * (shape.features - 1) / 2 * shape.dimension;
    const int64_t cycles = passes * products / 8 + shape.features * shape.dimension / 4 + 200;
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(workers.num_threads, workers.workers, batch.size, cycles,
                      [&](int64_t begin, int64_t end) {
                        std::unique_ptr<void, ScratchDeleter> scratch(
                            tensorflow::port::AlignedMalloc(scratch_bytes, 64));
                        work(functions, begin, end, scratch.get());
                      });
  }

  void ComputeForward(OpKernelContext* c, const Batch& batch,
                      const FeatureRows<const Element>& rows) {
    Tensor* output = nullptr;
    OP_REQUIRES_OK(
        c, c->allocate_output(0, TensorShape({batch.size, batch.shape.width}), &output));
    Element* out = OutputData(output);
    Parallel(c, batch, 1,
             [&](const Functions& functions, int64_t begin, int64_t end, void* scratch) {
               functions.forward(batch.shape, rows, out, begin, end, scratch);
             });
  }

  void ComputeBackward(OpKernelContext* c, const Batch& batch,
                       const FeatureRows<const Element>& rows, const Tensor& gradient,
                       const FeatureRows<Element>& out) {
    const Element* gradients = Data(gradient);
    Parallel(c, batch, 2,
             [&](const Functions& functions, int64_t begin, int64_t end, void* scratch) {
               functions.backward(batch.shape, rows, gradients, out, begin, end, scratch);
             });
  }
};

template <class T>
class StackedKernel : public DotInteractionKernel<T> {
 public:
  using DotInteractionKernel<T>::DotInteractionKernel;
  void Compute(OpKernelContext* c) override {
    const Tensor& features = c->input(0);
    typename DotInteractionKernel<T>::Batch batch;
    OP_REQUIRES_OK(c, this->StackedBatch(features, &batch));
    this->ComputeForward(c, batch, this->Stacked(this->Data(features), batch));
  }
};

template <class T>
class StackedGradientKernel : public DotInteractionKernel<T> {
 public:
  using DotInteractionKernel<T>::DotInteractionKernel;
  void Compute(OpKernelContext* c) override {
    const Tensor& features = c->input(1);
    typename DotInteractionKernel<T>::Batch batch;
    OP_REQUIRES_OK(c, this->StackedBatch(features, &batch));
    OP_REQUIRES_OK(c, this->CheckGradient(c->input(0), batch));
    Tensor* output = nullptr;
    // The features' own memory if nobody needs them any more: it is mapped and in the caches.
    OP_REQUIRES_OK(c, c->forward_input_or_allocate_output({1}, 0, features.shape(), &output));
    this->ComputeBackward(c, batch, this->Stacked(this->Data(features), batch), c->input(0),
                          this->Stacked(this->OutputData(output), batch));
  }
};

template <class T>
class SplitKernel : public DotInteractionKernel<T> {
 public:
  using DotInteractionKernel<T>::DotInteractionKernel;
  void Compute(OpKernelContext* c) override {
    const Tensor &bottom = c->input(0), &vectors = c->input(1);
    typename DotInteractionKernel<T>::Batch batch;
    OP_REQUIRES_OK(c, this->SplitBatch(bottom, vectors, &batch));
    this->ComputeForward(c, batch, this->Split(this->Data(bottom), this->Data(vectors), batch));
  }
};

template <class T>
class SplitGradientKernel : public DotInteractionKernel<T> {
 public:
  using DotInteractionKernel<T>::DotInteractionKernel;
  void Compute(OpKernelContext* c) override {
    const Tensor &bottom = c->input(1), &vectors = c->input(2);
    typename DotInteractionKernel<T>::Batch batch;
    OP_REQUIRES_OK(c, this->SplitBatch(bottom, vectors, &batch));
    OP_REQUIRES_OK(c, this->CheckGradient(c->input(0), batch));
    Tensor *bottom_out = nullptr, *vectors_out = nullptr;
    OP_REQUIRES_OK(c, c->forward_input_or_allocate_output({1}, 0, bottom.shape(), &bottom_out));
    OP_REQUIRES_OK(c, c->forward_input_or_allocate_output({2}, 1, vectors.shape(), &vectors_out));
    this->ComputeBackward(
        c, batch, this->Split(this->Data(bottom), this->Data(vectors), batch), c->input(0),
        this->Split(this->OutputData(bottom_out), this->OutputData(vectors_out), batch));
  }
};

#define DLRM_REGISTER(T)                                                                     \
  REGISTER_KERNEL_BUILDER(                                                                   \
      Name("Dlrm>DotInteraction").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),     \
      StackedKernel<T>);                                                                     \
  REGISTER_KERNEL_BUILDER(                                                                   \
      Name("Dlrm>DotInteractionGrad").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      StackedGradientKernel<T>);                                                             \
  REGISTER_KERNEL_BUILDER(                                                                   \
      Name("Dlrm>DotInteractionSplit").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      SplitKernel<T>);                                                                       \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>DotInteractionSplitGrad")                               \
                              .Device(tensorflow::DEVICE_CPU)                                \
                              .TypeConstraint<T>("T"),                                       \
                          SplitGradientKernel<T>);
DLRM_REGISTER(float)
DLRM_REGISTER(tensorflow::bfloat16)
DLRM_REGISTER(Eigen::half)
#undef DLRM_REGISTER

}  // namespace
}  // namespace dlrm
