// The attributes of Dlrm>ReadSlice, checked for consistency.
#ifndef OPS_READ_SLICE_SLICE_PLAN_H_
#define OPS_READ_SLICE_SLICE_PLAN_H_

#include <cstdint>
#include <vector>

#include "read_slice/column_files.h"
#include "status.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dlrm {

// Location of a column in its files and in the output.
struct SliceColumn {
  tensorflow::DataType stored;
  int64_t size;  // bytes of one stored value
  int64_t width;
  int64_t stride;
  int64_t first_output;
  int64_t first_segment;
  int64_t segments;
  bool lists;  // of varying length, at most `width`
};

struct SlicePlan {
  enum Check { kNone, kFinite, kBinary, kIds };

  // Reads and checks a kernel's attributes. The output dtype is float if `is_float`, else int32.
  static Status Make(tensorflow::OpKernelConstruction* context, bool is_float, SlicePlan* plan);

  int64_t rows = 0;
  int64_t width = 0;  // values of an output row
  std::vector<SliceColumn> columns;
  std::vector<Segment> segments;    // of all columns, column after column
  std::vector<Segment> boundaries;  // of each segment; without a path if it has no lists
  Check check = kNone;
  std::vector<int32_t> bounds;    // of each output value, with kIds
  std::vector<uint32_t> largest;  // likewise: the largest valid id, 2^32 - 1 (any) for lists
  std::vector<int64_t> tables;    // likewise, or empty
  float log_shift = -1;           // negative: no logarithm
};

}  // namespace dlrm

#endif  // OPS_READ_SLICE_SLICE_PLAN_H_
