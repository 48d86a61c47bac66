// Kernels of Dlrm>UploadBatch and Dlrm>ReceiveBatch: for all devices, and those for CPUs.

#include "upload/upload_kernels.h"

#include <limits>

#include "tensorflow/core/util/work_sharder.h"

namespace dlrm {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

void UploadBatchKernel::Compute(OpKernelContext* c) {
  std::vector<HostPart> parts;
  std::vector<int64_t> sizes, dims;
  for (int p = 0; p < c->num_inputs(); ++p) {
    const Tensor& part = c->input(p);
    const auto bytes = part.tensor_data();
    parts.push_back({bytes.data(), static_cast<int64_t>(bytes.size())});
    sizes.push_back(bytes.size());
    for (int d = 0; d < part.dims(); ++d) {
      dims.push_back(part.dim_size(d));
      OP_REQUIRES(
          c, dims.back() <= std::numeric_limits<int32_t>::max(),
          InvalidArgument("UploadBatch: part ", p, ": expected dimensions below 2^31, found ",
                          part.shape().DebugString()));
    }
  }
  Tensor* dims_out = nullptr;
  OP_REQUIRES_OK(
      c, c->allocate_output(1, TensorShape({static_cast<int64_t>(dims.size())}), &dims_out));
  std::copy(dims.begin(), dims.end(), dims_out->flat<int32_t>().data());

  const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
  const auto run = [&workers](int64_t chunks, const std::function<void(int64_t, int64_t)>& pack) {
    constexpr int64_t kCycles = 20'000;  // per chunk of 64 KiB
    tensorflow::Shard(workers.num_threads, workers.workers, chunks, kCycles, pack);
  };
  OP_REQUIRES_OK(c, SetPackage(c, parts, PackageLayout(sizes), run));
}

ReceiveBatchKernel::ReceiveBatchKernel(OpKernelConstruction* c) : OpKernel(c) {
  OP_REQUIRES_OK(c, c->GetAttr("dtypes", &dtypes_));
  OP_REQUIRES_OK(c, c->GetAttr("shapes", &shapes_));
  // The shape function has checked that there are as many shapes as dtypes, all of known rank.
  for (const auto& shape : shapes_) dims_ += shape.dims();
}

void ReceiveBatchKernel::Compute(OpKernelContext* c) {
  const Tensor &package = c->input(0), &dims = c->input(1);
  OP_REQUIRES(c, package.dims() == 1 && dims.dims() == 1 && dims.NumElements() == dims_,
              InvalidArgument("ReceiveBatch: expected a package [bytes] and dims [", dims_,
                              "], found shapes ", package.shape().DebugString(), " and ",
                              dims.shape().DebugString()));
  std::vector<TensorShape> shapes(shapes_.size());
  std::vector<int64_t> sizes;
  const int32_t* next = dims.flat<int32_t>().data();
  for (size_t p = 0; p < shapes_.size(); ++p) {
    const int rank = shapes_[p].dims();
    OP_REQUIRES_OK(c, tensorflow::TensorShapeUtils::MakeShape(next, rank, &shapes[p]));
    next += rank;
    OP_REQUIRES(c, shapes_[p].IsCompatibleWith(shapes[p]),
                InvalidArgument("ReceiveBatch: part ", p, ": expected shape ",
                                shapes_[p].DebugString(), ", found ", shapes[p].DebugString()));
    sizes.push_back(shapes[p].num_elements() * tensorflow::DataTypeSize(dtypes_[p]));
  }
  const PackageLayout layout(sizes);
  OP_REQUIRES(c, layout.bytes() == package.NumElements(),
              InvalidArgument("ReceiveBatch: expected a package of ", layout.bytes(),
                              " bytes for these dtypes and dims, found ", package.NumElements()));
  OP_REQUIRES_OK(c, Await(c, package));
  for (size_t p = 0; p < shapes.size(); ++p) {
    const int64_t begin = layout.offset(p);
    Tensor part;
    OP_REQUIRES_OK(c,
                   part.BitcastFrom(package.Slice(begin, begin + sizes[p]), dtypes_[p], shapes[p]));
    c->set_output(p, part);
  }
}

namespace {

class CpuUploadBatchKernel : public UploadBatchKernel {
 public:
  using UploadBatchKernel::UploadBatchKernel;

 protected:
  Status SetPackage(OpKernelContext* c, const std::vector<HostPart>& parts,
                    const PackageLayout& layout, const ParallelFor& run) override {
    Tensor* package = nullptr;
    TF_RETURN_IF_ERROR(c->allocate_output(0, TensorShape({layout.bytes()}), &package));
    layout.Pack(parts, reinterpret_cast<char*>(package->flat<uint8_t>().data()), run);
    return Status();
  }
};

REGISTER_KERNEL_BUILDER(Name("Dlrm>UploadBatch").Device(tensorflow::DEVICE_CPU),
                        CpuUploadBatchKernel);
REGISTER_KERNEL_BUILDER(Name("Dlrm>ReceiveBatch").Device(tensorflow::DEVICE_CPU),
                        ReceiveBatchKernel);

}  // namespace
}  // namespace dlrm
