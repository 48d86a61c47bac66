// Lookup and in-place update of embedding tables that are stored back to back in one variable.
//
// `table` is a resource variable of row_type [rows, D]. Table t of T occupies its rows
// [base_rows[t], base_rows[t] + table_rows[t]). ids [B, T] count from 0 within each table.
//
// The bag ops read several ids per sample and table, in one of two forms:
// - ids [B, W] with W = the sum of hotness [T]: table t has hotness[t] adjacent columns (slots); in
// a
//   table with variable[t], an id of -1 is an empty slot. offsets is empty.
// - ids [n] of a single table, with offsets [B + 1]: bag b is ids offsets[b] .. offsets[b + 1]. The
//   lists hotness, mean and variable are empty.

#include <string>
#include <vector>

#include "embedding/embedding_cpu.h"
#include "status.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeAndType;
using tensorflow::shape_inference::ShapeHandle;

// The embedding dimension D of the variable that input `index` names, unknown without a static
// shape.
Status TableDimension(InferenceContext* c, int index, DimensionHandle* dimension) {
  *dimension = c->UnknownDim();
  const std::vector<ShapeAndType>* table = c->input_handle_shapes_and_types(index);
  if (table == nullptr || table->empty()) return Status();
  ShapeHandle shape;
  TF_RETURN_IF_ERROR(c->WithRank((*table)[0].shape, 2, &shape));
  *dimension = c->Dim(shape, 1);
  return Status();
}

// Checks ids [B, T], base_rows [T] and table_rows [T].
Status IdsAndTables(InferenceContext* c, int ids_index, int base_rows_index, ShapeHandle* ids) {
  TF_RETURN_IF_ERROR(c->WithRank(c->input(ids_index), 2, ids));
  DimensionHandle tables = c->Dim(*ids, 1);
  for (int i = base_rows_index; i < base_rows_index + 2; ++i) {
    ShapeHandle vector;
    TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 1, &vector));
    TF_RETURN_IF_ERROR(c->Merge(tables, c->Dim(vector, 0), &tables));
  }
  return c->ReplaceDim(*ids, 1, tables, ids);
}

Status LookupShape(InferenceContext* c) {
  DimensionHandle dimension;
  ShapeHandle ids;
  TF_RETURN_IF_ERROR(TableDimension(c, 0, &dimension));
  TF_RETURN_IF_ERROR(IdsAndTables(c, 1, 2, &ids));
  c->set_output(0, c->MakeShape({c->Dim(ids, 0), c->Dim(ids, 1), dimension}));
  return Status();
}

// Checks ids, offsets, base_rows and table_rows of a bag op, of which ids are input `first`; sets
// the shape [B, T].
Status BagsAndTables(InferenceContext* c, int first, ShapeHandle* bags) {
  std::vector<int64_t> hotness;
  TF_RETURN_IF_ERROR(c->GetAttr("hotness", &hotness));
  ShapeHandle ids, offsets, vector;
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first), hotness.empty() ? 1 : 2, &ids));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 1), 1, &offsets));
  const int64_t tables = hotness.empty() ? 1 : static_cast<int64_t>(hotness.size());
  DimensionHandle batch, dimension;
  if (hotness.empty()) {
    TF_RETURN_IF_ERROR(c->Subtract(c->Dim(offsets, 0), 1, &batch));
  } else {
    int64_t slots = 0;
    for (int64_t count : hotness) slots += count;
    TF_RETURN_IF_ERROR(c->WithValue(c->Dim(ids, 1), slots, &dimension));
    batch = c->Dim(ids, 0);
  }
  for (int i = first + 2; i < first + 4; ++i) {
    TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 1, &vector));
    TF_RETURN_IF_ERROR(c->WithValue(c->Dim(vector, 0), tables, &dimension));
  }
  *bags = c->MakeShape({batch, c->MakeDim(tables)});
  return Status();
}

Status BagLookupShape(InferenceContext* c) {
  DimensionHandle dimension;
  ShapeHandle bags;
  TF_RETURN_IF_ERROR(TableDimension(c, 0, &dimension));
  TF_RETURN_IF_ERROR(BagsAndTables(c, 1, &bags));
  c->set_output(0, c->MakeShape({c->Dim(bags, 0), c->Dim(bags, 1), dimension}));
  return Status();
}

Status BagUpdateShapes(InferenceContext* c) {
  int states = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &states));
  const int first = 1 + states;
  DimensionHandle dimension;
  ShapeHandle bags, gradients, merged, scalar;
  TF_RETURN_IF_ERROR(TableDimension(c, 0, &dimension));
  TF_RETURN_IF_ERROR(BagsAndTables(c, first, &bags));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 4), 3, &gradients));
  TF_RETURN_IF_ERROR(
      c->Merge(gradients, c->MakeShape({c->Dim(bags, 0), c->Dim(bags, 1), dimension}), &merged));
  for (int i = first + 5; i < first + 7; ++i) {
    TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &scalar));
  }
  return Status();
}

// Checks the inputs of an update. Ids come after the table and the states.
Status UpdateShapes(InferenceContext* c) {
  int states = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &states));
  const int first = 1 + states;
  DimensionHandle dimension;
  ShapeHandle ids, gradients, merged, scalar;
  TF_RETURN_IF_ERROR(TableDimension(c, 0, &dimension));
  TF_RETURN_IF_ERROR(IdsAndTables(c, first, first + 2, &ids));
  TF_RETURN_IF_ERROR(c->WithRank(c->input(first + 1), 3, &gradients));
  TF_RETURN_IF_ERROR(
      c->Merge(gradients, c->MakeShape({c->Dim(ids, 0), c->Dim(ids, 1), dimension}), &merged));
  for (int i = first + 4; i < first + 6; ++i) {
    TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &scalar));
  }
  return Status();
}

// The attribute that names the optimizer of an update, with the names that it may have.
std::string OptimizerAttribute() {
  std::string names;
  for (int i = 0; i < RowRules::kCount; ++i) {
    names += std::string(i > 0 ? ", '" : "'") + FactsOfRowRule(i).name + "'";
  }
  return "optimizer: {" + names + "}";
}

Status AllScalars(InferenceContext* c) {
  ShapeHandle scalar;
  for (int i = 0; i < c->num_inputs(); ++i) {
    TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &scalar));
  }
  return Status();
}

}  // namespace

REGISTER_OP("Dlrm>EmbeddingLookup")
    .Input("table: resource")
    .Input("ids: Tids")
    .Input("base_rows: int64")
    .Input("table_rows: int64")
    .Output("vectors: dtype")
    .Attr("row_type: {float} = DT_FLOAT")
    .Attr("dtype: {float, bfloat16, half} = DT_FLOAT")
    .Attr("Tids: {int32, int64}")
    .Attr("side_stream: bool = false")
    .SetIsStateful()
    .SetShapeFn(LookupShape)
    .Doc("vectors[b, t] = table[base_rows[t] + ids[b, t]], converted to dtype; [B, T, D]. "
         "side_stream: a GPU runs this beside later ops, until Dlrm>JoinSideStream.");

REGISTER_OP("Dlrm>EmbeddingUpdate")
    .Input("table: resource")
    .Input("states: N * resource")
    .Input("ids: Tids")
    .Input("gradients: T")
    .Input("base_rows: int64")
    .Input("table_rows: int64")
    .Input("learning_rate: float")
    .Input("scale: float")
    .Attr("N: int >= 0")
    .Attr("row_type: {float} = DT_FLOAT")
    .Attr("T: {float, bfloat16, half}")
    .Attr("Tids: {int32, int64}")
    .Attr(OptimizerAttribute())
    .Attr("hyperparameters: list(float)")
    .Attr("deterministic: bool = true")
    .Attr("side_stream: bool = false")
    .SetIsStateful()
    .SetShapeFn(UpdateShapes)
    .Doc(
        "Updates the rows that ids [B, T] name by gradients [B, T, D], in place. The rules are in "
        "row_optimizers.h: SGD subtracts learning_rate * scale * gradient for each id in turn; the "
        "others apply scale * the sum of a row's gradients once. states: float32 variables, those "
        "of shape [rows, D] before those of shape [rows]; learning_rate and scale: scalars. With a "
        "scale of exactly 0 the ids are checked and nothing is written, whatever the gradients. "
        "side_stream: a GPU runs this beside later ops, until Dlrm>JoinSideStream.");

REGISTER_OP("Dlrm>EmbeddingBagLookup")
    .Input("table: resource")
    .Input("ids: Tids")
    .Input("offsets: int32")
    .Input("base_rows: int64")
    .Input("table_rows: int64")
    .Output("vectors: dtype")
    .Attr("row_type: {float} = DT_FLOAT")
    .Attr("dtype: {float, bfloat16, half} = DT_FLOAT")
    .Attr("Tids: {int32, int64}")
    .Attr("hotness: list(int)")
    .Attr("mean: list(bool)")
    .Attr("variable: list(bool)")
    .Attr("side_stream: bool = false")
    .SetIsStateful()
    .SetShapeFn(BagLookupShape)
    .Doc("vectors[b, t] = the sum of the rows of bag (b, t), added in float32 in the order of the "
         "ids, then, where mean[t], multiplied by 1 / the number of ids; zeros for an empty bag; "
         "converted to dtype; [B, T, D]. side_stream: as for Dlrm>EmbeddingLookup.");

REGISTER_OP("Dlrm>EmbeddingBagUpdate")
    .Input("table: resource")
    .Input("states: N * resource")
    .Input("ids: Tids")
    .Input("offsets: int32")
    .Input("base_rows: int64")
    .Input("table_rows: int64")
    .Input("gradients: T")
    .Input("learning_rate: float")
    .Input("scale: float")
    .Attr("N: int >= 0")
    .Attr("row_type: {float} = DT_FLOAT")
    .Attr("T: {float, bfloat16, half}")
    .Attr("Tids: {int32, int64}")
    .Attr("hotness: list(int)")
    .Attr("mean: list(bool)")
    .Attr("variable: list(bool)")
    .Attr(OptimizerAttribute())
    .Attr("hyperparameters: list(float)")
    .Attr("deterministic: bool = true")
    .Attr("side_stream: bool = false")
    .SetIsStateful()
    .SetShapeFn(BagUpdateShapes)
    .Doc(
        "Dlrm>EmbeddingUpdate for bags: the gradient [D] of bag (b, t) is that of each of its ids, "
        "repeated ones included, in float32 multiplied by 1 / the number of ids where mean[t]. "
        "Order: sample by sample, table by table, id by id.");

REGISTER_OP("Dlrm>EmbeddingInitialize")
    .Input("table: resource")
    .Input("base_row: int64")
    .Input("rows: int64")
    .Input("table_index: int64")
    .Input("seed: int64")
    .Input("first_row: int64")
    .Input("row_stride: int64")
    .Input("limit: float")
    .SetIsStateful()
    .SetShapeFn(AllScalars)
    .Doc("table[base_row + k] ~ U[-limit, limit) for k < rows, in place: a function of seed, "
         "table_index, the row's number in its table (first_row + k * row_stride) and the column "
         "only (Philox4x32-10).");

}  // namespace dlrm
