// Variables that a TensorFlow GPU kernel updates in place.
#ifndef DLRM_OPS_GPU_VARIABLES_H_
#define DLRM_OPS_GPU_VARIABLES_H_

// First: it prepares Eigen for GPUs.
#include "gpu_stream.h"

#include <algorithm>
#include <string>
#include <vector>

#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"

namespace dlrm {

// The variables of one call of a kernel, locked while this object lives. Their handles are in host
// memory.
class LockedVariables {
 public:
  // Looks up and locks the variables of inputs [0, count). `op` names the kernel in errors.
  Status Open(tensorflow::OpKernelContext* c, const char* op, int count) {
    op_ = op;
    variables_.resize(static_cast<size_t>(count));
    std::vector<decltype(variables_[0]->mu())> mutexes;
    for (int i = 0; i < count; ++i) {
      TF_RETURN_IF_ERROR(
          tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, i), &variables_[i]));
      mutexes.push_back(variables_[i]->mu());
    }
    // In order of address, like every op that locks several variables.
    std::sort(mutexes.begin(), mutexes.end());
    if (std::adjacent_find(mutexes.begin(), mutexes.end()) != mutexes.end()) {
      return InvalidArgument(op_, ": expected different variables, found one twice");
    }
    locks_.reserve(mutexes.size());
    for (auto* mutex : mutexes) locks_.emplace_back(*mutex);
    return Status();
  }

  // Checks that a variable has `dtype` and `elements`, and sets `data` to its memory in the GPU: a
  // copy that becomes the variable's, if a reader still holds its value, which must not change.
  // `role` names it in errors.
  template <class T>
  Status Use(tensorflow::OpKernelContext* c, int index, const std::string& role, int64_t elements,
             T** data) {
    tensorflow::Tensor* const tensor = variables_[index]->tensor();
    if (!tensor->IsInitialized()) {
      return FailedPrecondition(op_, ": ", role, " is not initialised");
    }
    constexpr tensorflow::DataType kType = tensorflow::DataTypeToEnum<T>::value;
    if (tensor->dtype() != kType || tensor->NumElements() != elements) {
      return InvalidArgument(op_, ": ", role, ": expected ", elements, " elements of ",
                             tensorflow::DataTypeString(kType), ", found ",
                             tensorflow::DataTypeString(tensor->dtype()), " ",
                             tensor->shape().DebugString());
    }
    if (!tensor->RefCountIsOne()) {
      tensorflow::Tensor own;
      TF_RETURN_IF_ERROR(c->allocate_temp(kType, tensor->shape(), &own));
      TF_RETURN_IF_ERROR(
          CudaStatus(cudaMemcpyAsync(MutableDeviceData(own), DeviceData(*tensor),
                                     tensor->TotalBytes(), cudaMemcpyDeviceToDevice, StreamOf(c)),
                     "copying a variable with readers"));
      *tensor = own;
    }
    *data = reinterpret_cast<T*>(MutableDeviceData(*tensor));
    return Status();
  }

  // Number of elements of a variable.
  int64_t elements(int index) const { return variables_[index]->tensor()->NumElements(); }

 private:
  const char* op_ = "";
  std::vector<tensorflow::core::RefCountPtr<tensorflow::Var>> variables_;
  std::vector<tensorflow::mutex_lock> locks_;  // destroyed, so unlocked, before variables_
};

}  // namespace dlrm

#endif  // DLRM_OPS_GPU_VARIABLES_H_
