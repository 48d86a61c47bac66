// Base class of kernels that are chains of products (MLPs, cross networks): attributes, choice of
// the products' type.

#ifndef DLRM_OPS_MLP_MLP_KERNEL_H_
#define DLRM_OPS_MLP_MLP_KERNEL_H_

#include <atomic>
#include <type_traits>

#include "cpu/huge_pages.h"
#include "cpu/tensor_elements.h"
#include "mlp/mlp_batch.h"
#include "mlp/mlp_shapes.h"

namespace dlrm {

// Derived has:
//   bool kBackward
//   int64_t kMostSumBytes  only if kBackward: bounds the temporary sums of gradients, of all slots
//   int64_t ChunkRows(size_t element_bytes, const std::vector<int64_t>& widths)  default, of a
//   chunk template <class C> void Run(OpKernelContext*, const std::vector<int64_t>& widths,
//                               const BatchProducts&)
// T is TensorFlow's element type, S the kernels' type for it.
template <class T, class Derived>
class MlpKernel : public tensorflow::OpKernel {
 public:
  using S = typename NativeElement<T>::Type;

  explicit MlpKernel(tensorflow::OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES(c, InstructionSetError()[0] == '\0', InvalidArgument(InstructionSetError()));
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
      c->CtxFailure(Internal("oneDNN failed in ", this->type_string(), ": ", caught.what()));
    }
  }

  template <class C>
  static MlpFunctions<S, C> Functions() {
    return MlpFunctionsFor<S, C>(CurrentInstructionSet());
  }
  template <class C>
  static constexpr bool kSame = std::is_same_v<S, C>;

 private:
  static constexpr int64_t kLeastRowsForward = 64;
  // Each backward slot costs the addition of sums as large as all kernels.
  static constexpr int64_t kLeastRowsBackward = 256;

  // The number of slots: at most `threads`; in the backward kernel few enough that their sums fit.
  static int64_t Slots(int64_t threads, const std::vector<int64_t>& widths) {
    int64_t bytes = 0;
    for (size_t l = 0; l + 1 < widths.size(); ++l) {
      bytes += (widths[l] + 1) * widths[l + 1] * static_cast<int64_t>(sizeof(float));
    }
    if constexpr (Derived::kBackward) {
      return std::min(threads, std::max<int64_t>(1, Derived::kMostSumBytes / bytes));
    }
    return threads;
  }

  template <class C>
  bool RunIn(tensorflow::OpKernelContext* c, const std::vector<int64_t>& widths, int64_t batch) {
    constexpr bool backward = Derived::kBackward;
    const Chunks chunks =
        Chunks::Of(batch, Slots(Threads(c), widths),
                   chunk_rows_ > 0 ? chunk_rows_ : Derived::ChunkRows(sizeof(C), widths),
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
