// The CUDA stream of a TensorFlow kernel, and CUDA errors as TensorFlow's.
#ifndef DLRM_OPS_GPU_STREAM_H_
#define DLRM_OPS_GPU_STREAM_H_

#define EIGEN_USE_GPU

#include <cuda_runtime_api.h>

#include "cuda_result.h"
#include "cuda_types.h"
#include "status.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "unsupported/Eigen/CXX11/Tensor"

namespace dlrm {

// The only way to get the stream that TensorFlow 2.12 to 2.15 have in common.
inline cudaStream_t StreamOf(tensorflow::OpKernelContext* c) {
  return c->eigen_gpu_device().stream();
}

inline Status CudaStatus(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return Status();
  return Internal(what, ": ", cudaGetErrorName(code), ": ", cudaGetErrorString(code));
}

inline Status CudaStatus(const CudaResult& result) { return CudaStatus(result.code, result.what); }

template <class T>
struct CudaType;
template <>
struct CudaType<float> {
  static constexpr int32_t kValue = DLRM_FLOAT32;
};
template <>
struct CudaType<Eigen::half> {
  static constexpr int32_t kValue = DLRM_FLOAT16;
};
template <>
struct CudaType<tensorflow::bfloat16> {
  static constexpr int32_t kValue = DLRM_BFLOAT16;
};
template <>
struct CudaType<int32_t> {
  static constexpr int32_t kValue = DLRM_INT32;
};
template <>
struct CudaType<int64_t> {
  static constexpr int32_t kValue = DLRM_INT64;
};

// Device memory of a tensor.
inline const char* DeviceData(const tensorflow::Tensor& tensor) {
  return tensor.tensor_data().data();
}
inline char* MutableDeviceData(const tensorflow::Tensor& tensor) {
  return const_cast<char*>(DeviceData(tensor));
}

}  // namespace dlrm

#endif  // DLRM_OPS_GPU_STREAM_H_
