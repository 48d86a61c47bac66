// The op after which the side stream's results may be used, and its CPU kernel.

#include "status.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

Status SameShapes(tensorflow::shape_inference::InferenceContext* c) {
  const int tables = c->num_inputs() - c->num_outputs();
  for (int i = 0; i < c->num_outputs(); ++i) c->set_output(i, c->input(tables + i));
  return Status();
}

// A CPU has no side stream: ops have finished when they return.
class JoinKernel : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* c) override {
    const int tables = c->num_inputs() - c->num_outputs();
    for (int i = 0; i < c->num_outputs(); ++i) c->set_output(i, c->input(tables + i));
  }
};

}  // namespace

REGISTER_OP("Dlrm>JoinSideStream")
    .Input("tables: N * resource")
    .Input("values: T")
    .Output("results: T")
    .Attr("N: int >= 1")
    .Attr("T: list({float, bfloat16, half}) >= 0")
    .SetIsStateful()
    .SetShapeFn(SameShapes)
    .Doc("Returns the values unchanged. On a GPU, all kernels that are launched later run after "
         "those of the ops with side_stream=true: between such an op and the next of this one, no "
         "other op may use its results or its variables. tables: their variables, for the order "
         "of ops in a tf.function.");

REGISTER_KERNEL_BUILDER(Name("Dlrm>JoinSideStream").Device(tensorflow::DEVICE_CPU), JoinKernel);

}  // namespace dlrm
