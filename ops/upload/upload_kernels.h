// What the CPU and GPU kernels of Dlrm>UploadBatch and Dlrm>ReceiveBatch share.
#ifndef DLRM_OPS_UPLOAD_UPLOAD_KERNELS_H_
#define DLRM_OPS_UPLOAD_UPLOAD_KERNELS_H_

#include <vector>

#include "status.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "upload/package_layout.h"

namespace dlrm {

class UploadBatchKernel : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(tensorflow::OpKernelContext* c) override;

 protected:
  // Sets output 0, the package. `run` uses the worker threads.
  virtual Status SetPackage(tensorflow::OpKernelContext* c, const std::vector<HostPart>& parts,
                            const PackageLayout& layout, const ParallelFor& run) = 0;
};

class ReceiveBatchKernel : public tensorflow::OpKernel {
 public:
  explicit ReceiveBatchKernel(tensorflow::OpKernelConstruction* c);
  void Compute(tensorflow::OpKernelContext* c) override;

 protected:
  // Called before the parts are set: makes the device's later kernels wait for the package.
  virtual Status Await(tensorflow::OpKernelContext* c, const tensorflow::Tensor& package) {
    return Status();
  }

 private:
  tensorflow::DataTypeVector dtypes_;
  std::vector<tensorflow::PartialTensorShape> shapes_;
  int64_t dims_ = 0;  // of all parts
};

}  // namespace dlrm

#endif  // DLRM_OPS_UPLOAD_UPLOAD_KERNELS_H_
