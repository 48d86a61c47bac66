// Scalars of the host as a tensor on the op's device, and the CPU kernel.

#include "status.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

Status VectorShape(tensorflow::shape_inference::InferenceContext* c) {
  tensorflow::shape_inference::ShapeHandle vector;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &vector));
  c->set_output(0, vector);
  return Status();
}

class ScalarsKernel : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* c) override { c->set_output(0, c->input(0)); }
};

}  // namespace

REGISTER_OP("Dlrm>ScalarsOnDevice")
    .Input("values: float")
    .Output("scalars: float")
    .SetShapeFn(VectorShape)
    .Doc("The values, [n] with n <= 32, on the op's device. On a GPU `values` is host memory, and "
         "the values travel as kernel arguments: nothing waits, unlike for a copy.");

REGISTER_KERNEL_BUILDER(Name("Dlrm>ScalarsOnDevice").Device(tensorflow::DEVICE_CPU), ScalarsKernel);

}  // namespace dlrm
