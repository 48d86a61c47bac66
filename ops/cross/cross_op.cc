// The cross network of DCN V2 and its gradient, one op for all layers.

#include "status.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// Sets the ranks of the layers' kernels, which are the inputs from `first`; none with full rank.
Status Ranks(InferenceContext* c, int first, DimensionHandle width, int layers,
             std::vector<DimensionHandle>* ranks) {
  int kernels;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &kernels));
  if (kernels != layers && kernels != 2 * layers) {
    return InvalidArgument("cross network: expected ", layers, " or ", 2 * layers, " kernels for ",
                           layers, " layers, found ", kernels);
  }
  for (int k = 0; k < kernels; ++k) {
    ShapeHandle kernel;
    DimensionHandle merged;
    const bool inner = kernels != layers && k % 2 == 0, outer = kernels != layers && k % 2 == 1;
    TF_RETURN_IF_ERROR(c->WithRank(c->input(first + k), 2, &kernel));
    TF_RETURN_IF_ERROR(c->Merge(outer ? ranks->back() : width, c->Dim(kernel, 0), &merged));
    if (inner) {
      ranks->push_back(c->Dim(kernel, 1));
    } else {
      TF_RETURN_IF_ERROR(c->Merge(width, c->Dim(kernel, 1), &merged));
    }
  }
  return Status();
}

Status ForwardShape(InferenceContext* c) {
  ShapeHandle x0, bias;
  int kernels, layers, inner, outer;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &kernels));
  TF_RETURN_IF_ERROR(c->GetAttr("L", &layers));
  TF_RETURN_IF_ERROR(c->GetAttr("I", &inner));
  TF_RETURN_IF_ERROR(c->GetAttr("M", &outer));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &x0));
  std::vector<DimensionHandle> ranks;
  TF_RETURN_IF_ERROR(Ranks(c, 1, c->Dim(x0, 1), layers, &ranks));
  for (int l = 0; l < layers; ++l) {
    DimensionHandle merged;
    TF_RETURN_IF_ERROR(c->WithRank(c->input(1 + kernels + l), 1, &bias));
    TF_RETURN_IF_ERROR(c->Merge(c->Dim(bias, 0), c->Dim(x0, 1), &merged));
  }
  const int ranked = static_cast<int>(ranks.size());
  if (!(inner == ranked && outer == layers) && !(inner == 0 && outer == 0)) {
    return InvalidArgument("cross network: expected I = ", ranked, " and M = ", layers,
                           ", or 0 and 0, found ", inner, " and ", outer);
  }
  c->set_output(0, x0);
  for (int l = 0; l < inner; ++l) c->set_output(1 + l, c->Matrix(c->Dim(x0, 0), ranks[l]));
  for (int l = 0; l < outer; ++l) c->set_output(1 + inner + l, x0);
  return Status();
}

Status BackwardShape(InferenceContext* c) {
  ShapeHandle x0;
  int kernels, layers, inner;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &kernels));
  TF_RETURN_IF_ERROR(c->GetAttr("L", &layers));
  TF_RETURN_IF_ERROR(c->GetAttr("I", &inner));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &x0));
  std::vector<DimensionHandle> ranks;
  TF_RETURN_IF_ERROR(Ranks(c, 2 + inner + layers, c->Dim(x0, 1), layers, &ranks));
  if (inner != static_cast<int>(ranks.size())) {
    return InvalidArgument("cross network gradient: expected I = ", ranks.size(), ", found ",
                           inner);
  }
  c->set_output(0, x0);
  for (int k = 0; k < kernels; ++k) c->set_output(1 + k, c->input(2 + inner + layers + k));
  for (int l = 0; l < layers; ++l) c->set_output(1 + kernels + l, c->Vector(c->Dim(x0, 1)));
  return Status();
}

}  // namespace

REGISTER_OP("Dlrm>CrossForward")
    .Input("x0: T")
    .Input("kernels: N * float")
    .Input("biases: L * float")
    .Output("y: T")
    .Output("inner: I * T")
    .Output("outer: M * T")
    .Attr("T: {float, bfloat16}")
    .Attr("N: int >= 1")
    .Attr("L: int >= 1")
    .Attr("I: int >= 0")
    .Attr("M: int >= 0")
    .Attr("chunk_rows: int >= 0 = 0")
    .SetShapeFn(ForwardShape)
    .Doc("L layers x = x0 * z + x from x = x0 [B, n], with z = x V W + bias (N = 2 L kernels: V "
         "[n, r], W [r, n] of layer 0, of layer 1 ...) or z = x W + bias (N = L kernels [n, n]), "
         "biases [n], elementwise products. For the gradient, `inner` keeps the I = N - L products "
         "x V [B, r] and `outer` the M = L values z [B, n]; or none of them (I = M = 0). Products "
         "accumulate in float32; activations are T. A thread computes chunk_rows rows at a time "
         "(0: chosen by the op).");

REGISTER_OP("Dlrm>CrossBackward")
    .Input("gradient: T")
    .Input("x0: T")
    .Input("inner: I * T")
    .Input("outer: L * T")
    .Input("kernels: N * float")
    .Output("x0_gradient: T")
    .Output("kernel_gradients: N * float")
    .Output("bias_gradients: L * float")
    .Attr("T: {float, bfloat16}")
    .Attr("N: int >= 1")
    .Attr("L: int >= 1")
    .Attr("I: int >= 0")
    .Attr("chunk_rows: int >= 0 = 0")
    .SetShapeFn(BackwardShape)
    .Doc("The gradients of CrossForward, given its x0, inner and outer. Gradients of kernels and "
         "biases are float32 sums over the batch, in an order that depends only on B, chunk_rows "
         "and the number of threads.");

}  // namespace dlrm
