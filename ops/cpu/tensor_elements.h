// Access to the elements of TensorFlow's tensors in the CPU kernels' types.

#ifndef DLRM_OPS_CPU_TENSOR_ELEMENTS_H_
#define DLRM_OPS_CPU_TENSOR_ELEMENTS_H_

#include "cpu/element_types.h"
#include "tensorflow/core/framework/bfloat16.h"
#include "tensorflow/core/framework/tensor.h"

namespace dlrm {

// The kernels' element type for a TensorFlow element type.
template <class T>
struct NativeElement;
template <>
struct NativeElement<float> {
  using Type = float;
};
template <>
struct NativeElement<tensorflow::bfloat16> {
  using Type = Bf16;
};
template <>
struct NativeElement<Eigen::half> {
  using Type = Half;
};

template <class E>
const E* ElementsOf(const tensorflow::Tensor& tensor) {
  return static_cast<const E*>(static_cast<const void*>(tensor.tensor_data().data()));
}
template <class E>
E* MutableElementsOf(const tensorflow::Tensor& tensor) {
  return const_cast<E*>(ElementsOf<E>(tensor));
}

}  // namespace dlrm

#endif  // DLRM_OPS_CPU_TENSOR_ELEMENTS_H_
