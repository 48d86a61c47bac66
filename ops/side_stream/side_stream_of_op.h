// Kernels of TensorFlow ops on the side stream.
#ifndef DLRM_OPS_SIDE_STREAM_SIDE_STREAM_OF_OP_H_
#define DLRM_OPS_SIDE_STREAM_SIDE_STREAM_OF_OP_H_

#include "gpu_stream.h"

#include <memory>

#include "side_stream/side_stream.h"
#include "tensorflow/core/framework/resource_var.h"

namespace dlrm {

// The side stream of the op's device.
inline Status SideStreamOf(tensorflow::OpKernelContext* c, SideStream** stream) {
  int device = 0;
  TF_RETURN_IF_ERROR(CudaStatus(cudaGetDevice(&device), "current device"));
  *stream = &SideStream::Of(device, StreamOf(c));
  return Status();
}

// Keeps a tensor's memory.
inline std::shared_ptr<void> Hold(const tensorflow::Tensor& tensor) {
  return std::make_shared<tensorflow::Tensor>(tensor);
}

// Keeps a variable, but not its value: another reference to that would make the next update copy
// it. While a variable is used on the side stream, no op may assign to it.
inline std::shared_ptr<void> Hold(tensorflow::Var* variable) {
  variable->Ref();
  return std::shared_ptr<void>(variable, [variable](void*) { variable->Unref(); });
}

}  // namespace dlrm

#endif  // DLRM_OPS_SIDE_STREAM_SIDE_STREAM_OF_OP_H_
