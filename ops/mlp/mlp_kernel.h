// Base class of the forward and the backward kernel: attributes, choice of the products' type.

#ifndef DLRM_OPS_MLP_MLP_KERNEL_H_
#define DLRM_OPS_MLP_MLP_KERNEL_H_

#include <atomic>
#include <type_traits>

#include "cpu/huge_pages.h"
#include "cpu/tensor_elements.h"
#include "mlp/mlp_batch.h"
#include "mlp/mlp_shapes.h"

namespace dlrm {

// Derived has: bool kBackward; template <class C> void Run(OpKernelContext*, const BatchProducts&).
// T is TensorFlow's element type, S the kernels' type for it.
template <class T, class Derived>
class MlpKernel : public tensorflow::OpKernel {
 public:
  using S = typename NativeElement<T>::Type;

  explicit MlpKernel(tensorflow::OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES(c, InstructionSetError()[0] == '\0', InvalidArgument(InstructionSetError()));
    OP_REQUIRES_OK(c, c->GetAttr("last_relu", &last_relu_));
    OP_REQUIRES_OK(c, c->GetAttr("chunk_rows", &chunk_rows_));
  }

 protected:
  // Runs with operands of type S, or of float if processor or oneDNN have no products of S.
  void RunForBatch(tensorflow::OpKernelContext* c, const std::vector<int64_t>& widths,
                   int64_t batch) {
    try {
      if constexpr (!std::is_same_v<S, float>) {
        if (has_products_ && RunIn<S>(c, widths, batch)) return;
        has_products_ = false;
      }
      RunIn<float>(c, widths, batch);
    } catch (const std::exception& caught) {
      c->CtxFailure(Internal("oneDNN failed in an MLP op: ", caught.what()));
    }
  }

  template <class C>
  static MlpFunctions<S, C> Functions() {
    return MlpFunctionsFor<S, C>(CurrentInstructionSet());
  }
  template <class C>
  static constexpr bool kSame = std::is_same_v<S, C>;

  bool last_relu_;

 private:
  static constexpr int64_t kLeastRowsForward = 64;
  // Each backward slot costs the addition of sums as large as all kernels.
  static constexpr int64_t kLeastRowsBackward = 256;

  // The number of slots: at most `threads`, and few enough that their sums take at most 512 MiB.
  static int64_t SumsThatFit(int64_t threads, const std::vector<int64_t>& widths) {
    constexpr int64_t kMostBytes = 512ll << 20;
    int64_t bytes = 0;
    for (size_t l = 0; l + 1 < widths.size(); ++l) {
      bytes += (widths[l] + 1) * widths[l + 1] * static_cast<int64_t>(sizeof(float));
    }
    return std::min(threads, std::max<int64_t>(1, kMostBytes / bytes));
  }

  template <class C>
  bool RunIn(tensorflow::OpKernelContext* c, const std::vector<int64_t>& widths, int64_t batch) {
    constexpr bool backward = Derived::kBackward;
    const int64_t preferred = backward ? kBackwardRows : kForwardRows<C>;
    const Chunks chunks = Chunks::Of(batch, backward ? SumsThatFit(Threads(c), widths) : Threads(c),
                                     chunk_rows_ > 0 ? chunk_rows_ : preferred,
                                     backward ? kLeastRowsBackward : kLeastRowsForward);
    const auto products = cache_.Get(widths, chunks, TypeOf<C>(), backward);
    // oneDNN's reference code is about a hundred times slower than float products.
    if (!std::is_same_v<C, float> && products->is_slow()) return false;
    static_cast<Derived*>(this)->template Run<C>(c, widths, BatchProducts{chunks, products});
    return true;
  }

  int64_t chunk_rows_;
  std::atomic<bool> has_products_{HasBfloat16Products()};
  ProductsCache cache_;
};

}  // namespace dlrm

#endif  // DLRM_OPS_MLP_MLP_KERNEL_H_
