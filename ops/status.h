// The status type of TensorFlow's functions, and constructors of errors with a message.
//
//   OP_REQUIRES(c, rows > 0, InvalidArgument("expected rows, found ", rows));
#ifndef DLRM_OPS_STATUS_H_
#define DLRM_OPS_STATUS_H_

#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace dlrm {

// absl::Status, or TensorFlow 2.12's own class. Deduced, because the name `tensorflow::Status` is
// deprecated.
using Status = std::decay_t<decltype(std::declval<const tensorflow::OpKernelContext&>().status())>;

namespace status_internal {

// Both classes use Abseil's code numbers.
template <class... Parts>
Status Error(absl::StatusCode code, const Parts&... parts) {
  using Code = std::decay_t<decltype(std::declval<const Status&>().code())>;
  return Status(static_cast<Code>(code), absl::StrCat(parts...));
}

}  // namespace status_internal

// The message concatenates the parts: strings and numbers, as in absl::StrCat.
template <class... Parts>
Status InvalidArgument(const Parts&... parts) {
  return status_internal::Error(absl::StatusCode::kInvalidArgument, parts...);
}

template <class... Parts>
Status FailedPrecondition(const Parts&... parts) {
  return status_internal::Error(absl::StatusCode::kFailedPrecondition, parts...);
}

template <class... Parts>
Status Internal(const Parts&... parts) {
  return status_internal::Error(absl::StatusCode::kInternal, parts...);
}

template <class... Parts>
Status NotFound(const Parts&... parts) {
  return status_internal::Error(absl::StatusCode::kNotFound, parts...);
}

template <class... Parts>
Status PermissionDenied(const Parts&... parts) {
  return status_internal::Error(absl::StatusCode::kPermissionDenied, parts...);
}

template <class... Parts>
Status DataLoss(const Parts&... parts) {
  return status_internal::Error(absl::StatusCode::kDataLoss, parts...);
}

}  // namespace dlrm

#endif  // DLRM_OPS_STATUS_H_
