// The dot interaction of DLRM (Naumov et al., arXiv:1906.00091, section 2.2) and its gradient.
//
// Of F feature vectors of D elements each sample keeps
//   [row 0 (D) | scalar products of rows i > j, row-major (F (F - 1) / 2) | zeros]
// padded to a multiple of 8 elements. Row 0 is the bottom MLP's output. The plain ops take all
// rows as one tensor; the "Split" ops take row 0 and the other rows apart, so that nothing has to
// be concatenated before them.

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

using tensorflow::Status;
using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// The last dimension of the output for `features` rows of `dimension` elements, if both are known.
DimensionHandle OutputWidth(InferenceContext* c, DimensionHandle features,
                            DimensionHandle dimension) {
  if (!c->ValueKnown(features) || !c->ValueKnown(dimension)) return c->UnknownDim();
  const tensorflow::int64 rows = c->Value(features);
  const tensorflow::int64 used = c->Value(dimension) + rows * (rows - 1) / 2;
  return c->MakeDim((used + 7) / 8 * 8);
}

Status StackedShape(InferenceContext* c) {
  ShapeHandle features;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 3, &features));
  c->set_output(0, c->Matrix(c->Dim(features, 0),
                             OutputWidth(c, c->Dim(features, 1), c->Dim(features, 2))));
  return Status();
}

Status StackedGradientShape(InferenceContext* c) {
  ShapeHandle gradient, features;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &gradient));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 3, &features));
  c->set_output(0, features);
  return Status();
}

// Checks a bottom output [B, D] against vectors [B, T, D] and returns what both agree on.
Status SplitInputs(InferenceContext* c, int first, ShapeHandle* bottom, ShapeHandle* vectors) {
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first), 2, bottom));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 1), 3, vectors));
  DimensionHandle batch, dimension;
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(*bottom, 0), c->Dim(*vectors, 0), &batch));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(*bottom, 1), c->Dim(*vectors, 2), &dimension));
  *bottom = c->Matrix(batch, dimension);
  *vectors = c->MakeShape({batch, c->Dim(*vectors, 1), dimension});
  return Status();
}

Status SplitShape(InferenceContext* c) {
  ShapeHandle bottom, vectors;
  TF_RETURN_IF_ERROR(SplitInputs(c, 0, &bottom, &vectors));
  DimensionHandle features;
  TF_RETURN_IF_ERROR(c->Add(c->Dim(vectors, 1), 1, &features));
  c->set_output(0, c->Matrix(c->Dim(bottom, 0), OutputWidth(c, features, c->Dim(bottom, 1))));
  return Status();
}

Status SplitGradientShape(InferenceContext* c) {
  ShapeHandle gradient, bottom, vectors;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &gradient));
  TF_RETURN_IF_ERROR(SplitInputs(c, 1, &bottom, &vectors));
  c->set_output(0, bottom);
  c->set_output(1, vectors);
  return Status();
}

}  // namespace

REGISTER_OP("Dlrm>DotInteraction")
    .Input("features: T")
    .Output("interactions: T")
    .Attr("T: {float, bfloat16, half}")
    .SetShapeFn(StackedShape)
    .Doc("features [B, F, D] -> interactions [B, W], W = D + F (F - 1) / 2 rounded up to 8.");

REGISTER_OP("Dlrm>DotInteractionGrad")
    .Input("gradient: T")
    .Input("features: T")
    .Output("features_gradient: T")
    .Attr("T: {float, bfloat16, half}")
    .SetShapeFn(StackedGradientShape)
    .Doc("gradient [B, W], features [B, F, D] -> features_gradient [B, F, D].");

REGISTER_OP("Dlrm>DotInteractionSplit")
    .Input("bottom: T")
    .Input("vectors: T")
    .Output("interactions: T")
    .Attr("T: {float, bfloat16, half}")
    .SetShapeFn(SplitShape)
    .Doc("bottom [B, D], vectors [B, T, D] -> interactions [B, W], F = T + 1.");

REGISTER_OP("Dlrm>DotInteractionSplitGrad")
    .Input("gradient: T")
    .Input("bottom: T")
    .Input("vectors: T")
    .Output("bottom_gradient: T")
    .Output("vectors_gradient: T")
    .Attr("T: {float, bfloat16, half}")
    .SetShapeFn(SplitGradientShape)
    .Doc("gradient [B, W], bottom [B, D], vectors [B, T, D] -> gradients of bottom and vectors.");

}  // namespace dlrm
