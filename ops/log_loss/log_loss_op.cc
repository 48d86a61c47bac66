// The last layer with the log loss and all gradients in one op, and a check for finite numbers.

#include "status.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

Status LogLossShape(InferenceContext* c) {
  ShapeHandle hidden, kernel, bias, label, scale;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &hidden));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &kernel));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &bias));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 2, &label));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(4), 0, &scale));
  DimensionHandle width, batch, one;
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(hidden, 1), c->Dim(kernel, 0), &width));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(hidden, 0), c->Dim(label, 0), &batch));
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(kernel, 1), 1, &one));
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(bias, 0), 1, &one));
  TF_RETURN_IF_ERROR(c->WithValue(c->Dim(label, 1), 1, &one));
  c->set_output(0, c->Scalar());
  c->set_output(1, c->Matrix(batch, width));
  c->set_output(2, c->Matrix(width, 1));
  c->set_output(3, c->Vector(1));
  return Status();
}

}  // namespace

REGISTER_OP("Dlrm>LogLoss")
    .Input("hidden: T")
    .Input("kernel: float")
    .Input("bias: float")
    .Input("label: float")
    .Input("scale: float")
    .Output("loss: float")
    .Output("hidden_gradient: T")
    .Output("kernel_gradient: float")
    .Output("bias_gradient: float")
    .Attr("T: {float, bfloat16, half}")
    .Attr("relu: bool")
    .SetShapeFn(LogLossShape)
    .Doc("hidden [B, n], kernel [n, 1], bias [1], label [B, 1], scale [] -> the mean over B of the "
         "log loss of the logits hidden kernel + bias, and the gradients of scale times it. With "
         "relu, hidden is the result of a ReLU, and hidden_gradient is that of its input. GPUs "
         "only.");

REGISTER_OP("Dlrm>AllFinite")
    .Input("tensors: N * T")
    .Output("finite: bool")
    .Attr("T: {float, bfloat16, half}")
    .Attr("N: int >= 1")
    .SetShapeFn(tensorflow::shape_inference::ScalarShape)
    .Doc("Whether no element of the tensors is infinite or NaN. GPUs only.");

}  // namespace dlrm
