#include "read_slice/slice_plan.h"

#include <algorithm>
#include <limits>
#include <string>

namespace dlrm {
namespace {

namespace tf = ::tensorflow;

// Reads the attributes of one file for each of `expected` segments.
Status MakeSegments(tf::OpKernelConstruction* context, const std::string& prefix, size_t expected,
                    std::vector<Segment>* segments) {
  std::vector<std::string> filenames;
  std::vector<int64_t> offsets, samples;
  TF_RETURN_IF_ERROR(context->GetAttr(prefix + "filenames", &filenames));
  TF_RETURN_IF_ERROR(context->GetAttr(prefix + "offsets", &offsets));
  TF_RETURN_IF_ERROR(context->GetAttr(prefix + "samples", &samples));
  if (filenames.size() != expected || offsets.size() != expected || samples.size() != expected) {
    return InvalidArgument("expected ", expected, " ", prefix, "filenames, offsets and samples, ",
                           "found ", filenames.size(), ", ", offsets.size(), " and ",
                           samples.size());
  }
  for (size_t i = 0; i < filenames.size(); ++i) {
    if (offsets[i] < 0 || samples[i] < 0) {
      return InvalidArgument(filenames[i], ": expected offset and samples >= 0, found ", offsets[i],
                             " and ", samples[i]);
    }
    segments->push_back({filenames[i], offsets[i], samples[i]});
  }
  return Status();
}

Status MakeAllSegments(tf::OpKernelConstruction* context, size_t expected, SlicePlan* plan) {
  TF_RETURN_IF_ERROR(MakeSegments(context, "", expected, &plan->segments));
  std::vector<std::string> boundaries;
  TF_RETURN_IF_ERROR(context->GetAttr("boundary_filenames", &boundaries));
  if (boundaries.empty()) {
    plan->boundaries.resize(expected);
    return Status();
  }
  return MakeSegments(context, "boundary_", expected, &plan->boundaries);
}

Status MakeColumns(tf::OpKernelConstruction* context, bool is_float, SlicePlan* plan) {
  tf::DataTypeVector stored;
  std::vector<int64_t> segments, widths, strides;
  TF_RETURN_IF_ERROR(context->GetAttr("segments", &segments));
  TF_RETURN_IF_ERROR(context->GetAttr("stored", &stored));
  TF_RETURN_IF_ERROR(context->GetAttr("widths", &widths));
  TF_RETURN_IF_ERROR(context->GetAttr("strides", &strides));
  if (stored.empty() || widths.size() != stored.size() || strides.size() != stored.size() ||
      segments.size() != stored.size()) {
    return InvalidArgument(
        "read slice: expected as many widths, strides and segments as dtypes, found ",
        widths.size(), ", ", strides.size(), ", ", segments.size(), " and ", stored.size());
  }
  int64_t all_segments = 0;
  for (const int64_t count : segments) all_segments += std::max<int64_t>(count, 0);
  TF_RETURN_IF_ERROR(MakeAllSegments(context, all_segments, plan));
  int64_t first = 0;
  for (size_t i = 0; i < stored.size(); ++i) {
    const int64_t size = tf::DataTypeSize(stored[i]);
    const bool lists = segments[i] >= 1 && !plan->boundaries[first].path.empty();
    const int64_t least = lists ? size : size * widths[i];
    if (widths[i] < 1 || segments[i] < 1 || strides[i] < least || (lists && strides[i] != size)) {
      return InvalidArgument("read slice: column ", i, ": expected width >= 1, stride ",
                             lists ? "" : ">= ", least, " and segments >= 1, found ", widths[i],
                             ", ", strides[i], " and ", segments[i]);
    }
    for (int64_t s = first; s < first + segments[i]; ++s) {
      if (plan->boundaries[s].path.empty() == lists || (lists && is_float)) {
        return InvalidArgument("read slice: column ", i, ": expected boundaries for all segments ",
                               "of an int32 column or for none, found '", plan->boundaries[s].path,
                               "'");
      }
    }
    plan->columns.push_back(
        {stored[i], size, widths[i], strides[i], plan->width, first, segments[i], lists});
    plan->width += widths[i];
    first += segments[i];
  }
  return Status();
}

Status MakeChecks(tf::OpKernelConstruction* context, bool is_float, SlicePlan* plan) {
  std::string check;
  std::vector<int64_t> bounds;
  TF_RETURN_IF_ERROR(context->GetAttr("check", &check));
  TF_RETURN_IF_ERROR(context->GetAttr("bounds", &bounds));
  TF_RETURN_IF_ERROR(context->GetAttr("tables", &plan->tables));
  TF_RETURN_IF_ERROR(context->GetAttr("log_shift", &plan->log_shift));
  const bool ids = check == "ids";
  plan->check = ids                 ? SlicePlan::kIds
                : check == "finite" ? SlicePlan::kFinite
                : check == "binary" ? SlicePlan::kBinary
                                    : SlicePlan::kNone;
  if (plan->check != SlicePlan::kNone && is_float == ids) {
    return InvalidArgument("read slice: expected check 'ids' for int32, 'finite' or 'binary' for "
                           "float, found '",
                           check, "'");
  }
  const int64_t expected = ids ? plan->width : 0;
  if (bounds.size() != static_cast<size_t>(expected)) {
    return InvalidArgument("expected ", expected, " bounds, found ", bounds.size());
  }
  if (!plan->tables.empty() && plan->tables.size() != bounds.size()) {
    return InvalidArgument("expected ", bounds.size(), " tables, found ", plan->tables.size());
  }
  if (plan->log_shift >= 0 && !is_float) {
    return InvalidArgument("read slice: expected a float output for log_shift ", plan->log_shift,
                           ", found int32");
  }
  for (const int64_t bound : bounds) {
    if (bound < 1 || bound > std::numeric_limits<int32_t>::max()) {
      return InvalidArgument("expected bounds from 1 to 2147483647, found ", bound);
    }
  }
  plan->bounds.assign(bounds.begin(), bounds.end());
  for (const int64_t bound : bounds) plan->largest.push_back(static_cast<uint32_t>(bound - 1));
  for (const SliceColumn& column : plan->columns) {
    // The ids of lists are checked before empty slots follow them.
    if (!column.lists || !ids) continue;
    std::fill_n(plan->largest.begin() + column.first_output, column.width, ~uint32_t{0});
  }
  return Status();
}

}  // namespace

Status SlicePlan::Make(tf::OpKernelConstruction* context, bool is_float, SlicePlan* plan) {
  TF_RETURN_IF_ERROR(context->GetAttr("rows", &plan->rows));
  TF_RETURN_IF_ERROR(MakeColumns(context, is_float, plan));
  return MakeChecks(context, is_float, plan);
}

}  // namespace dlrm
