// The dot interaction's CUDA launchers as TensorFlow's GPU kernels.

// First: it prepares Eigen for GPUs.
#include "gpu_stream.h"

#include "dot_interaction/dot_interaction_kernel.h"
#include "dot_interaction/dot_interaction_launchers.h"

namespace dlrm {
namespace {

template <class T>
struct GpuDotInteraction {
  using Element = typename NativeElement<T>::Type;

  // The CUDA kernels read a feature again after its gradient may have been written.
  static constexpr bool kMayOverwrite = false;

  static void BeforeWriting(const Tensor&) {}

  static Status Forward(OpKernelContext* c, const DotInteractionBatch& batch,
                        const FeatureRows<const Element>& rows, Element* output) {
    const DlrmInteractionShape shape = ShapeOf(batch);
    const FeatureRows<const void> in = RowsAs<const void>(rows);
    return CudaStatus(dlrm_dot_interaction_forward(&shape, &in, output, StreamOf(c)),
                      "dot interaction");
  }

  static Status Backward(OpKernelContext* c, const DotInteractionBatch& batch,
                         const FeatureRows<const Element>& rows, const Element* gradient,
                         const FeatureRows<Element>& out) {
    const DlrmInteractionShape shape = ShapeOf(batch);
    const FeatureRows<const void> in = RowsAs<const void>(rows);
    const FeatureRows<void> gradients = RowsAs<void>(out);
    return CudaStatus(dlrm_dot_interaction_backward(&shape, &in, gradient, &gradients, StreamOf(c)),
                      "gradient of the dot interaction");
  }

 private:
  static DlrmInteractionShape ShapeOf(const DotInteractionBatch& batch) {
    return {batch.size, batch.shape.features, batch.shape.dimension, CudaType<T>::kValue};
  }
};

DLRM_REGISTER_DOT_INTERACTION(DEVICE_GPU, GpuDotInteraction, float);
DLRM_REGISTER_DOT_INTERACTION(DEVICE_GPU, GpuDotInteraction, tensorflow::bfloat16);
DLRM_REGISTER_DOT_INTERACTION(DEVICE_GPU, GpuDotInteraction, Eigen::half);

}  // namespace
}  // namespace dlrm
