// The dot interaction of DLRM (Naumov et al., arXiv:1906.00091, section 2.2) and its gradient.
//
// The layout is in dot_interaction_layout.h. The plain ops take all rows as one tensor. The "Split"
// ops take row 0 and the other rows as two tensors, which saves a concatenation.

#include "dot_interaction/dot_interaction_layout.h"
#include "status.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

struct Features {
  DimensionHandle batch, rows, dimension;
};

// The static dimensions of the features: inputs `first` to last.
Status FeaturesOf(InferenceContext* c, int first, Features* features) {
  const int last = c->num_inputs() - 1;
  ShapeHandle bottom, vectors;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(last), 3, &vectors));
  *features = {c->Dim(vectors, 0), c->Dim(vectors, 1), c->Dim(vectors, 2)};
  if (first == last) return Status();
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first), 2, &bottom));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(bottom, 0), features->batch, &features->batch));
  TF_RETURN_IF_ERROR(c->Merge(c->Dim(bottom, 1), features->dimension, &features->dimension));
  return c->Add(features->rows, 1, &features->rows);
}

Status OutputShape(InferenceContext* c) {
  Features f;
  TF_RETURN_IF_ERROR(FeaturesOf(c, 0, &f));
  DimensionHandle width = c->UnknownDim();
  if (c->ValueKnown(f.rows) && c->ValueKnown(f.dimension)) {
    width = c->MakeDim(OutputWidth(c->Value(f.rows), c->Value(f.dimension)));
  }
  c->set_output(0, c->Matrix(f.batch, width));
  return Status();
}

Status GradientShapes(InferenceContext* c) {
  ShapeHandle gradient;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 2, &gradient));
  Features f;
  TF_RETURN_IF_ERROR(FeaturesOf(c, 1, &f));
  const int last = c->num_outputs() - 1;
  if (last > 0) {
    c->set_output(0, c->Matrix(f.batch, f.dimension));
    TF_RETURN_IF_ERROR(c->Subtract(f.rows, 1, &f.rows));
  }
  c->set_output(last, c->MakeShape({f.batch, f.rows, f.dimension}));
  return Status();
}

}  // namespace

REGISTER_OP("Dlrm>DotInteraction")
    .Input("features: T")
    .Output("interactions: T")
    .Attr("T: {float, bfloat16, half}")
    .SetShapeFn(OutputShape)
    .Doc("features [B, F, D] -> interactions [B, W], W = D + F (F - 1) / 2 rounded up to 8.");

REGISTER_OP("Dlrm>DotInteractionGrad")
    .Input("gradient: T")
    .Input("features: T")
    .Output("features_gradient: T")
    .Attr("T: {float, bfloat16, half}")
    .SetShapeFn(GradientShapes)
    .Doc("gradient [B, W], features [B, F, D] -> features_gradient [B, F, D].");

REGISTER_OP("Dlrm>DotInteractionSplit")
    .Input("bottom: T")
    .Input("vectors: T")
    .Output("interactions: T")
    .Attr("T: {float, bfloat16, half}")
    .SetShapeFn(OutputShape)
    .Doc("bottom [B, D], vectors [B, T, D] -> interactions [B, W], F = T + 1.");

REGISTER_OP("Dlrm>DotInteractionSplitGrad")
    .Input("gradient: T")
    .Input("bottom: T")
    .Input("vectors: T")
    .Output("bottom_gradient: T")
    .Output("vectors_gradient: T")
    .Attr("T: {float, bfloat16, half}")
    .SetShapeFn(GradientShapes)
    .Doc("gradient [B, W], bottom [B, D], vectors [B, T, D] -> gradients of bottom and vectors.");

}  // namespace dlrm
