#include "read_slice/list_files.h"

#include <algorithm>

namespace dlrm {
namespace {

constexpr int64_t kBoundaryBytes = sizeof(int64_t);

// The boundaries of successive lists of a segment.
struct Boundaries {
  const Segment& lists;
  int64_t values;  // in the segment
  int64_t first;   // index of the first list in the segment
  int64_t rows;
  const int64_t* at;  // [rows + 1]

  bool IsFirst() const { return first == 0; }
  bool IsLast() const { return first + rows == lists.samples; }
};

bool AreValid(const Boundaries& given, int64_t longest) {
  const int64_t* at = given.at;
  bool valid = at[0] >= 0 && at[given.rows] <= given.values && !(given.IsFirst() && at[0] != 0) &&
               !(given.IsLast() && at[given.rows] != given.values);
  for (int64_t i = 0; i < given.rows; ++i) {
    // As unsigned, the length of a list that ends before it begins is huge.
    const uint64_t length = static_cast<uint64_t>(at[i + 1]) - static_cast<uint64_t>(at[i]);
    valid &= length <= static_cast<uint64_t>(longest);
  }
  return valid;
}

// Describes the first problem of invalid boundaries, of lists from sample `sample` on.
std::string Explain(const Boundaries& given, int64_t longest, int64_t sample,
                    const std::string& table, const std::string& values_path) {
  const auto message = [&](int64_t i, const char* what, const std::string& expected,
                           int64_t found) {
    return given.lists.path + ": sample " + std::to_string(sample + i) + table + ": " + what +
           ": expected " + expected + ", found " + std::to_string(found);
  };
  const int64_t* at = given.at;
  const std::string all = std::to_string(given.values) + ", the values in " + values_path;
  if (given.IsFirst() && at[0] != 0) return message(0, "offset", "0", at[0]);
  if (at[0] < 0) return message(0, "offset", "at least 0", at[0]);
  for (int64_t i = 0; i < given.rows; ++i) {
    const int64_t begin = at[i], end = at[i + 1];
    if (end < begin) {
      return message(i, "end of its list", "at least " + std::to_string(begin), end);
    }
    if (end > given.values) return message(i, "end of its list", "at most " + all, end);
    if (end - begin > longest) {
      return message(i, "ids in its list", "at most " + std::to_string(longest), end - begin);
    }
  }
  return message(given.rows - 1, "end of its list", all, at[given.rows]);
}

}  // namespace

ReadError BeyondLast(const Segment& last, int64_t first, int64_t rows) {
  return {ReadError::kShort, last.path + ": " + std::to_string(rows) +
                                 " samples requested, the first " + std::to_string(first) +
                                 " beyond the last sample"};
}

std::string TableOf(const SlicePlan& plan, const SliceColumn& column) {
  if (plan.tables.empty()) return "";
  return ", table " + std::to_string(plan.tables[column.first_output]);
}

ReadError ReadLists(const SlicePlan& plan, const ColumnFiles& files, const SliceColumn& column,
                    int64_t first, int64_t rows, char* out, int64_t* starts) {
  const int64_t sample = first;
  const int64_t end = column.first_segment + column.segments;
  int64_t segment = column.first_segment, filled = 0;
  for (int64_t done = 0; done < rows;) {
    for (; segment < end && first >= plan.boundaries[segment].samples; ++segment) {
      first -= plan.boundaries[segment].samples;
    }
    if (segment == end) return BeyondLast(plan.boundaries[end - 1], first, rows - done);
    const Segment &lists = plan.boundaries[segment], &values = plan.segments[segment];
    const int64_t here = std::min(rows - done, lists.samples - first);
    // The first boundary replaces the last one of the segment before, which is the same place.
    int64_t* at = starts + done;
    ReadError error =
        files.Of(lists).Read(lists.offset + first * kBoundaryBytes, (here + 1) * kBoundaryBytes,
                             reinterpret_cast<char*>(at));
    if (error) return error;
    const Boundaries given = {lists, values.samples, first, here, at};
    if (!AreValid(given, column.width)) {
      return {ReadError::kValue,
              Explain(given, column.width, sample + done, TableOf(plan, column), values.path)};
    }
    const int64_t from = at[0], count = at[here] - from;
    error = files.Of(values).Read(values.offset + from * column.size, count * column.size,
                                  out + filled * column.size);
    if (error) return error;
    for (int64_t i = 0; i <= here; ++i) at[i] += filled - from;
    filled += count;
    first += here;
    done += here;
  }
  return {};
}

}  // namespace dlrm
