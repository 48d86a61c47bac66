// Lists of varying length: their values in one file, and where each list begins in another.
#ifndef OPS_READ_SLICE_LIST_FILES_H_
#define OPS_READ_SLICE_LIST_FILES_H_

#include <cstdint>
#include <string>

#include "read_slice/column_files.h"
#include "read_slice/slice_plan.h"

namespace dlrm {

// Reads lists [first, first + rows) of a column: their values, one after another, to `out`, which
// has room for `column.width` values per list, and to starts[0 .. rows] where each begins there.
// Fails unless the boundaries start at 0, rise to the number of values, and no list is longer than
// `column.width`.
ReadError ReadLists(const SlicePlan& plan, const ColumnFiles& files, const SliceColumn& column,
                    int64_t first, int64_t rows, char* out, int64_t* starts);

// The error of a request for samples beyond those of the last segment.
ReadError BeyondLast(const Segment& last, int64_t first, int64_t rows);

// ", table N" for a message, or "" if the plan does not have the tables.
std::string TableOf(const SlicePlan& plan, const SliceColumn& column);

}  // namespace dlrm

#endif  // OPS_READ_SLICE_LIST_FILES_H_
