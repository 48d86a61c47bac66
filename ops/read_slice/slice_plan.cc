#include "read_slice/slice_plan.h"

#include <string>

namespace dlrm {
namespace {

namespace tf = ::tensorflow;

Status MakeColumns(tf::OpKernelConstruction* context, SlicePlan* plan, int64_t* all_segments) {
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
  for (size_t i = 0; i < stored.size(); ++i) {
    const int64_t size = tf::DataTypeSize(stored[i]);
    if (widths[i] < 1 || strides[i] < size * widths[i] || segments[i] < 1) {
      return InvalidArgument(
          "read slice: column ", i, ": expected width >= 1, stride >= ", size * widths[i],
          " and segments >= 1, found ", widths[i], ", ", strides[i], " and ", segments[i]);
    }
    plan->columns.push_back(
        {stored[i], size, widths[i], strides[i], plan->width, *all_segments, segments[i]});
    plan->width += widths[i];
    *all_segments += segments[i];
  }
  return Status();
}

Status MakeSegments(tf::OpKernelConstruction* context, int64_t expected, SlicePlan* plan) {
  std::vector<std::string> filenames;
  std::vector<int64_t> offsets, samples;
  TF_RETURN_IF_ERROR(context->GetAttr("filenames", &filenames));
  TF_RETURN_IF_ERROR(context->GetAttr("offsets", &offsets));
  TF_RETURN_IF_ERROR(context->GetAttr("samples", &samples));
  if (filenames.size() != static_cast<size_t>(expected) || offsets.size() != filenames.size() ||
      samples.size() != filenames.size()) {
    return InvalidArgument("expected ", expected, " filenames, offsets and samples, found ",
                           filenames.size(), ", ", offsets.size(), " and ", samples.size());
  }
  for (size_t i = 0; i < filenames.size(); ++i) {
    if (offsets[i] < 0 || samples[i] < 0) {
      return InvalidArgument(filenames[i], ": expected offset and samples >= 0, found ", offsets[i],
                             " and ", samples[i]);
    }
    plan->segments.push_back({filenames[i], offsets[i], samples[i]});
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
  plan->bounds.assign(bounds.begin(), bounds.end());
  return Status();
}

}  // namespace

Status SlicePlan::Make(tf::OpKernelConstruction* context, bool is_float, SlicePlan* plan) {
  TF_RETURN_IF_ERROR(context->GetAttr("rows", &plan->rows));
  int64_t all_segments = 0;
  TF_RETURN_IF_ERROR(MakeColumns(context, plan, &all_segments));
  TF_RETURN_IF_ERROR(MakeSegments(context, all_segments, plan));
  return MakeChecks(context, is_float, plan);
}

}  // namespace dlrm
