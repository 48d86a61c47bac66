// TensorFlow GPU kernels of Dlrm>UploadBatch and Dlrm>ReceiveBatch.

#include "gpu_stream.h"
#include "tensorflow/core/framework/allocation_description.pb.h"
#include "upload/staging_slots.h"
#include "upload/upload_kernels.h"

namespace dlrm {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorBuffer;
using tensorflow::TensorShape;

Status SlotsOf(OpKernelContext* c, StagingSlots** slots) {
  int device = 0;
  TF_RETURN_IF_ERROR(CudaStatus(cudaGetDevice(&device), "current device"));
  *slots = &StagingSlots::Of(device, StreamOf(c));
  return Status();
}

// A package's memory. TensorFlow destroys the buffer when no tensor refers to it any more: the
// kernels that read it have been launched by then, as for all of its memory.
class PackageBuffer : public TensorBuffer {
 public:
  PackageBuffer(StagingSlots* slots, StagingSlots::Slot* slot, int64_t bytes)
      : TensorBuffer(StagingSlots::DeviceData(slot)), slots_(slots), slot_(slot), bytes_(bytes) {}
  ~PackageBuffer() override { slots_->Release(slot_); }

  size_t size() const override { return bytes_; }
  TensorBuffer* root_buffer() override { return this; }
  void FillAllocationDescription(tensorflow::AllocationDescription* proto) const override {
    proto->set_requested_bytes(bytes_);
  }

 private:
  StagingSlots* slots_;
  StagingSlots::Slot* slot_;
  int64_t bytes_;
};

class GpuUploadBatchKernel : public UploadBatchKernel {
 public:
  using UploadBatchKernel::UploadBatchKernel;

 protected:
  Status SetPackage(OpKernelContext* c, const std::vector<HostPart>& parts,
                    const PackageLayout& layout, const ParallelFor& run) override {
    StagingSlots* slots = nullptr;
    TF_RETURN_IF_ERROR(SlotsOf(c, &slots));
    // From TensorFlow's allocator, so that it is part of the memory that TensorFlow manages.
    Status allocated;
    const auto allocate = [&](int64_t bytes) -> DeviceMemory {
      auto memory = std::make_shared<Tensor>();
      allocated = c->allocate_temp(tensorflow::DT_UINT8, TensorShape({bytes}), memory.get());
      if (!allocated.ok()) return {};
      return {MutableDeviceData(*memory), memory};
    };
    const auto fill = [&](char* pinned) { layout.Pack(parts, pinned, run); };
    StagingSlots::Slot* slot = nullptr;
    const CudaResult result = slots->Upload(layout.bytes(), allocate, fill, &slot);
    TF_RETURN_IF_ERROR(allocated);
    TF_RETURN_IF_ERROR(CudaStatus(result));
    auto* buffer = new PackageBuffer(slots, slot, layout.bytes());
    c->set_output(0, Tensor(tensorflow::DT_UINT8, TensorShape({layout.bytes()}), buffer));
    buffer->Unref();  // the tensor has its own reference
    return Status();
  }
};

class GpuReceiveBatchKernel : public ReceiveBatchKernel {
 public:
  using ReceiveBatchKernel::ReceiveBatchKernel;

 protected:
  Status Await(OpKernelContext* c, const Tensor& package) override {
    StagingSlots* slots = nullptr;
    TF_RETURN_IF_ERROR(SlotsOf(c, &slots));
    const StagingSlots::Slot* slot = slots->Find(DeviceData(package));
    if (slot == nullptr) {
      // Even a copy is wrong: it was not made after the upload.
      return InvalidArgument("ReceiveBatch: expected a package that UploadBatch returned on ",
                             c->device()->name(), ", found another tensor or a copy");
    }
    return CudaStatus(slots->Await(slot));
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Dlrm>UploadBatch").Device(tensorflow::DEVICE_GPU).HostMemory("parts").HostMemory("dims"),
    GpuUploadBatchKernel);
REGISTER_KERNEL_BUILDER(Name("Dlrm>ReceiveBatch").Device(tensorflow::DEVICE_GPU).HostMemory("dims"),
                        GpuReceiveBatchKernel);

}  // namespace
}  // namespace dlrm
