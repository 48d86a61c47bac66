// Registers Dlrm>ReadSlice: its signature, shape function and documentation.
#include <vector>

#include "status.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace dlrm {
namespace {

namespace tf = ::tensorflow;

REGISTER_OP("Dlrm>ReadSlice")
    .Input("first: int64")
    .Input("count: int64")
    .Output("values: T")
    .Attr("T: {float, int32}")
    .Attr("rows: int >= 1")
    .Attr("filenames: list(string)")
    .Attr("offsets: list(int)")
    .Attr("samples: list(int)")
    .Attr("segments: list(int)")
    .Attr("stored: list({bool, int8, uint8, int16, int32, half, float})")
    .Attr("widths: list(int)")
    .Attr("strides: list(int)")
    .Attr("boundary_filenames: list(string) = []")
    .Attr("boundary_offsets: list(int) = []")
    .Attr("boundary_samples: list(int) = []")
    .Attr("check: {'none', 'finite', 'binary', 'ids'} = 'none'")
    .Attr("bounds: list(int) = []")
    .Attr("tables: list(int) = []")
    .Attr("log_shift: float = -1.0")
    .SetIsStateful()
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) -> Status {
      tf::shape_inference::ShapeHandle first;
      TF_RETURN_IF_ERROR(context->WithRank(context->input(0), 1, &first));
      TF_RETURN_IF_ERROR(context->Merge(first, context->input(1), &first));
      int64_t rows;
      TF_RETURN_IF_ERROR(context->GetAttr("rows", &rows));
      std::vector<int> widths;
      TF_RETURN_IF_ERROR(context->GetAttr("widths", &widths));
      int64_t width = 0;
      for (int one : widths) width += one;
      context->set_output(0, context->Matrix(rows, width));
      return Status();
    })
    .Doc(R"doc(
Reads samples from column files into a [rows, sum(widths)] tensor.

Part p of P fills rows p * rows / P onwards with samples first[p] .. first[p] + count[p] - 1; the
part's remaining rows are zero.

A column may hold lists of varying length: one after another in the segments' files, and in their
boundary files where each list begins, int64 [samples + 1]. The boundaries of a segment start at 0,
do not fall, and end at the number of its values. The output has `width` values per sample: the
list, then -1. Its remaining rows of a part are -1.

first: [P] index of each part's first sample.
count: [P] samples to read, at most rows / P.
filenames: path of each segment's file, column after column.
offsets: byte offset of each segment's first sample.
samples: samples in each segment; for lists, values in it.
segments: number of segments of each column.
stored: dtype of each column in its files, little endian.
widths: values per sample of each column; for lists, the largest possible length.
strides: bytes from one sample to the next in each column's files; for lists, bytes of a value.
boundary_filenames: path of each segment's boundary file, "" for columns without lists; or empty.
boundary_offsets: byte offset of each segment's first boundary.
boundary_samples: lists in each segment.
check: 'finite' or 'binary' (each value 0 or 1) for float, 'ids' (0 <= id < bound) for int32.
bounds: one per output column, with check 'ids'.
tables: likewise, the table of each output column, for error messages; may be empty.
log_shift: if not negative, the output is log(value + log_shift).
)doc");

}  // namespace
}  // namespace dlrm
