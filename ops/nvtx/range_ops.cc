// Ops that start and end NVTX ranges in a graph.
//
// They forward their inputs without reading or copying a byte, on any device. Only consumers of
// these tensors wait for the range's start.

#include <string>

#include "nvtx/domain.h"
#include "status.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Sets the shape of output i to that of input i for the first `values` inputs.
void KeepShapes(InferenceContext* c, int values) {
  for (int i = 0; i < values; ++i) {
    c->set_output(i, c->input(i));
    const auto* handles = c->input_handle_shapes_and_types(i);
    if (handles != nullptr) c->set_output_handle_shapes_and_types(i, *handles);
  }
}

// Not stateful: TensorFlow runs the stateful ops of a function one after another, so a profiler
// would serialise what otherwise runs in parallel.
REGISTER_OP("Dlrm>NvtxRangeStart")
    .Input("values: T")
    .Output("same: T")
    .Output("range: int64")
    .Attr("T: list(type) >= 0")
    .Attr("label: string")
    .SetShapeFn([](InferenceContext* c) {
      KeepShapes(c, c->num_inputs());
      c->set_output(c->num_inputs(), c->Scalar());
      return Status();
    })
    .Doc("Starts an NVTX range named label when all values are ready, and forwards them. "
         "range: its number, for NvtxRangeEnd.");

REGISTER_OP("Dlrm>NvtxRangeEnd")
    .Input("values: T")
    .Input("range: int64")
    .Output("same: T")
    .Output("over: int64")
    .Attr("T: list(type) >= 0")
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle range;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(c->num_inputs() - 1), 0, &range));
      KeepShapes(c, c->num_inputs() - 1);
      c->set_output(c->num_inputs() - 1, range);
      return Status();
    })
    .Doc("Ends the NVTX range when all values are ready, and forwards them. over: range, for "
         "NvtxRangesOver.");

REGISTER_OP("Dlrm>NvtxRangesOver")
    .Input("value: T")
    .Input("over: N * int64")
    .Output("same: T")
    .Attr("T: type")
    .Attr("N: int >= 1")
    .SetShapeFn([](InferenceContext* c) {
      KeepShapes(c, 1);
      return Status();
    })
    .Doc("Forwards value when the ranges have ended. Without it, unused NvtxRangeEnd ops are "
         "pruned.");

class RangeStartOp : public OpKernel {
 public:
  explicit RangeStartOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("label", &label_));
  }

  void Compute(OpKernelContext* context) override {
    const int values = context->num_inputs();
    for (int i = 0; i < values; ++i) context->set_output(i, context->input(i));
    Tensor* range = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(values, TensorShape({}), &range));
    range->scalar<int64_t>()() = static_cast<int64_t>(NvtxStart(label_.c_str()));
  }

  // Runs on the thread that makes it ready instead of being scheduled on another.
  bool IsExpensive() override { return false; }

 private:
  std::string label_;
};

class RangeEndOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    const int values = context->num_inputs() - 1;
    NvtxEnd(static_cast<uint64_t>(context->input(values).scalar<int64_t>()()));
    for (int i = 0; i <= values; ++i) context->set_output(i, context->input(i));
  }

  bool IsExpensive() override { return false; }
};

class RangesOverOp : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override { context->set_output(0, context->input(0)); }
  bool IsExpensive() override { return false; }
};

REGISTER_KERNEL_BUILDER(Name("Dlrm>NvtxRangeStart").Device(tensorflow::DEVICE_CPU), RangeStartOp);
REGISTER_KERNEL_BUILDER(Name("Dlrm>NvtxRangeEnd").Device(tensorflow::DEVICE_CPU), RangeEndOp);
REGISTER_KERNEL_BUILDER(Name("Dlrm>NvtxRangesOver").Device(tensorflow::DEVICE_CPU), RangesOverOp);
// On a GPU the values stay in device memory, unread; the range numbers are in host memory.
REGISTER_KERNEL_BUILDER(
    Name("Dlrm>NvtxRangeStart").Device(tensorflow::DEVICE_GPU).HostMemory("range"), RangeStartOp);
REGISTER_KERNEL_BUILDER(
    Name("Dlrm>NvtxRangeEnd").Device(tensorflow::DEVICE_GPU).HostMemory("range").HostMemory("over"),
    RangeEndOp);
REGISTER_KERNEL_BUILDER(
    Name("Dlrm>NvtxRangesOver").Device(tensorflow::DEVICE_GPU).HostMemory("over"), RangesOverOp);

}  // namespace
}  // namespace dlrm
