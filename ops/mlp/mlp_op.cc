// MLPs (dense layers with ReLU between them) and their gradients, one op for all layers.

#include "status.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Propagates `inputs` columns through the N kernels (inputs from `first`); returns each layer's
// width.
Status Widths(InferenceContext* c, int first, DimensionHandle inputs,
              std::vector<DimensionHandle>* widths) {
  int layers;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &layers));
  for (int l = 0; l < layers; ++l) {
    ShapeHandle kernel;
    DimensionHandle merged;
    TF_RETURN_IF_ERROR(c->WithRank(c->input(first + l), 2, &kernel));
    TF_RETURN_IF_ERROR(c->Merge(inputs, c->Dim(kernel, 0), &merged));
    inputs = c->Dim(kernel, 1);
    widths->push_back(inputs);
  }
  return Status();
}

Status ForwardShape(InferenceContext* c) {
  ShapeHandle x, bias;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x));
  std::vector<DimensionHandle> widths;
  TF_RETURN_IF_ERROR(Widths(c, 1, c->Dim(x, 1), &widths));
  const int layers = static_cast<int>(widths.size());
  for (int l = 0; l < layers; ++l) {
    DimensionHandle merged;
    TF_RETURN_IF_ERROR(c->WithRank(c->input(1 + layers + l), 1, &bias));
    TF_RETURN_IF_ERROR(c->Merge(c->Dim(bias, 0), widths[l], &merged));
  }
  const DimensionHandle batch = c->Dim(x, 0);
  c->set_output(0, c->Matrix(batch, widths.back()));
  const int hidden = c->num_outputs() - 2;
  for (int l = 0; l < hidden; ++l) c->set_output(1 + l, c->Matrix(batch, widths[l]));
  c->set_output(1 + hidden, c->Vector(InferenceContext::kUnknownDim));
  return Status();
}

Status BackwardShape(InferenceContext* c) {
  ShapeHandle x;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 2, &x));
  int hidden;
  TF_RETURN_IF_ERROR(c->GetAttr("M", &hidden));
  std::vector<DimensionHandle> widths;
  TF_RETURN_IF_ERROR(Widths(c, 3 + hidden, c->Dim(x, 1), &widths));
  const int layers = static_cast<int>(widths.size());
  bool input_gradient;
  TF_RETURN_IF_ERROR(c->GetAttr("input_gradient", &input_gradient));
  c->set_output(0, input_gradient ? x : c->Matrix(0, c->Dim(x, 1)));
  DimensionHandle inputs = c->Dim(x, 1);
  for (int l = 0; l < layers; ++l) {
    c->set_output(1 + l, c->Matrix(inputs, widths[l]));
    c->set_output(1 + layers + l, c->Vector(widths[l]));
    inputs = widths[l];
  }
  return Status();
}

}  // namespace

REGISTER_OP("Dlrm>MlpForward")
    .Input("x: T")
    .Input("kernels: N * float")
    .Input("biases: N * float")
    .Output("y: T")
    .Output("hidden: M * T")
    .Output("saved: uint8")
    .Attr("T: {float, bfloat16, half}")
    .Attr("N: int >= 1")
    .Attr("M: int >= 0")
    .Attr("last_relu: bool")
    .Attr("chunk_rows: int >= 0 = 0")
    .Attr("tf32: bool = false")
    .SetShapeFn(ForwardShape)
    .Doc("x [B, K], kernels [K, n1], [n1, n2] ..., biases [n1], [n2] ... -> y [B, nN] and, for "
         "the gradient, M = N - 1 hidden activations [B, n1] ..., or none of them (M = 0). Layers "
         "are relu(x kernel + bias), the last one linear unless last_relu; relu of a value that is "
         "not finite is NaN on CPUs. Products accumulate in float32; activations are T. On CPUs a "
         "thread computes chunk_rows rows at a time (0: chosen by the op). On GPUs `saved` keeps "
         "what else the gradient needs, and tf32 lets float32 products round their operands to "
         "TF32.");

REGISTER_OP("Dlrm>MlpBackward")
    .Input("gradient: T")
    .Input("y: T")
    .Input("x: T")
    .Input("hidden: M * T")
    .Input("kernels: N * float")
    .Input("saved: uint8")
    .Output("x_gradient: T")
    .Output("kernel_gradients: N * float")
    .Output("bias_gradients: N * float")
    .Attr("T: {float, bfloat16, half}")
    .Attr("N: int >= 1")
    .Attr("M: int >= 0")
    .Attr("last_relu: bool")
    .Attr("chunk_rows: int >= 0 = 0")
    .Attr("tf32: bool = false")
    .Attr("input_gradient: bool = true")
    .SetShapeFn(BackwardShape)
    .Doc("The gradients of MlpForward, given its x, y, saved and all M = N - 1 hidden activations. "
         "Without input_gradient, x_gradient is [0, K]. "
         "Gradients of kernels and biases are float32 sums over the batch, in an order that "
         "depends only on B, chunk_rows and the number of threads.");

}  // namespace dlrm
