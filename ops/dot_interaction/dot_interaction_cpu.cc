// TensorFlow kernels around the dot interaction's CPU functions: dispatch by instruction set,
// threads.

#include <memory>
#include <new>
#include <type_traits>

#include "cpu/huge_pages.h"
#include "dot_interaction/dot_interaction_cpu.h"
#include "dot_interaction/dot_interaction_kernel.h"
#include "tensorflow/core/framework/register_types.h"
#include "tensorflow/core/util/work_sharder.h"

namespace dlrm {
namespace {

// The functions for an instruction set: of the set itself or the next lower set that has them.
template <class E>
DotInteractionFunctions<E> FunctionsFor(InstructionSet set) {
  switch (set) {
    case InstructionSet::kBf16:
#if defined(DLRM_HAVE_BF16)
      if constexpr (std::is_same_v<E, Bf16>) return bf16::DotInteraction();
#endif
      [[fallthrough]];
    case InstructionSet::kAvx512:
#if defined(DLRM_HAVE_AVX512)
      return avx512::DotInteraction<E>();
#endif
    case InstructionSet::kAvx2:
#if defined(DLRM_HAVE_AVX2)
      return avx2::DotInteraction<E>();
#endif
    case InstructionSet::kPortable:
      break;
  }
  return portable::DotInteraction<E>();
}

constexpr std::align_val_t kScratchAlignment{64};

struct ScratchDeleter {
  void operator()(void* p) const { ::operator delete(p, kScratchAlignment); }
};

template <class T>
struct CpuDotInteraction {
  using Element = typename NativeElement<T>::Type;
  using Functions = DotInteractionFunctions<Element>;

  static constexpr bool kMayOverwrite = true;

  // Page faults of a newly allocated output would cost as much as the products.
  static void BeforeWriting(const Tensor& output) {
    AdviseHugePages(MutableElementsOf<Element>(output), output.TotalBytes());
  }

  static Status Forward(OpKernelContext* c, const DotInteractionBatch& batch,
                        const FeatureRows<const Element>& rows, Element* output) {
    return Parallel(c, batch, 1, [&](const Functions& functions, auto... range) {
      functions.forward(batch.shape, rows, output, range...);
    });
  }

  static Status Backward(OpKernelContext* c, const DotInteractionBatch& batch,
                         const FeatureRows<const Element>& rows, const Element* gradient,
                         const FeatureRows<Element>& out) {
    return Parallel(c, batch, 2, [&](const Functions& functions, auto... range) {
      functions.backward(batch.shape, rows, gradient, out, range...);
    });
  }

 private:
  // Runs work(functions, begin, end, scratch) over the batch on TensorFlow's threads.
  // `passes`: how often each product of a sample is computed, for the cost estimate.
  template <class Work>
  static Status Parallel(OpKernelContext* c, const DotInteractionBatch& batch, int passes,
                         const Work& work) {
    if (InstructionSetError()[0] != '\0') return InvalidArgument(InstructionSetError());
    const DotInteractionShape& shape = batch.shape;
    const Functions functions = FunctionsFor<Element>(CurrentInstructionSet());
    const size_t scratch_bytes = functions.scratch_bytes(shape);
    const int64_t products = PairCount(shape.features) * shape.dimension;
    const int64_t cycles = passes * products / 8 + shape.features * shape.dimension / 4 + 200;
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(workers.num_threads, workers.workers, batch.size, cycles,
                      [&](int64_t begin, int64_t end) {
                        std::unique_ptr<void, ScratchDeleter> scratch(
                            ::operator new(scratch_bytes, kScratchAlignment));
                        work(functions, begin, end, scratch.get());
                      });
    return Status();
  }
};

DLRM_REGISTER_DOT_INTERACTION(DEVICE_CPU, CpuDotInteraction, float);
DLRM_REGISTER_DOT_INTERACTION(DEVICE_CPU, CpuDotInteraction, tensorflow::bfloat16);
DLRM_REGISTER_DOT_INTERACTION(DEVICE_CPU, CpuDotInteraction, Eigen::half);

}  // namespace
}  // namespace dlrm
