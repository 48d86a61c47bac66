// TensorFlow GPU kernels of the embedding updates.

#include "embedding/embedding_gpu.h"

namespace dlrm {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

// Allocates the device memory that an update works in.
Status AllocateWorkspace(OpKernelContext* c, const Tensor& ids, const DlrmEmbeddingBatch& batch,
                         const DlrmEmbeddingUpdate& update, Tensor* workspace) {
  size_t bytes = 0;
  const cudaError_t code = dlrm_embedding_workspace_bytes(&batch, &update, &bytes);
  if (code == cudaErrorInvalidValue) {
    return InvalidArgument(
        "a sorted update, and one of bags, supports fewer than 2^31 ids and 2^32 "
        "rows, got ids ",
        ids.shape().DebugString(), " and ", batch.total_rows, " rows");
  }
  TF_RETURN_IF_ERROR(CudaStatus(code, "workspace of an embedding update"));
  return c->allocate_temp(tensorflow::DT_UINT8, TensorShape({static_cast<int64_t>(bytes)}),
                          workspace);
}

// kBags: of Dlrm>EmbeddingBagUpdate.
template <class R, class T, class Id, bool kBags>
class GpuUpdateKernel : public OpKernel {
 public:
  explicit GpuUpdateKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, attributes_.Read(c));
    OP_REQUIRES_OK(c, c->GetAttr("deterministic", &deterministic_));
    OP_REQUIRES_OK(c, c->GetAttr("side_stream", &side_stream_));
    if (kBags) OP_REQUIRES_OK(c, bags_.Read(c));
  }

  void Compute(OpKernelContext* c) override {
    UpdateInputs inputs;
    OP_REQUIRES_OK(c, inputs.Open(c, attributes_, tensorflow::DataTypeToEnum<R>::value,
                                  kBags ? &bags_.attributes : nullptr));
    const Tensor* rows = inputs.table()->tensor();
    GpuBatch batch;
    if (kBags) {
      OP_REQUIRES_OK(c, (batch.PrepareBags<R, T, Id>(inputs.ids(), inputs.offsets(),
                                                     inputs.base_rows(), inputs.table_rows(),
                                                     rows->dim_size(0), rows->dim_size(1), bags_)));
    } else {
      OP_REQUIRES_OK(c,
                     (batch.Prepare<R, T, Id>(inputs.ids(), inputs.base_rows(), inputs.table_rows(),
                                              rows->dim_size(0), rows->dim_size(1))));
    }
    if (inputs.gradients().NumElements() == 0) return;
    DlrmEmbeddingUpdate update = {
        attributes_.optimizer,
        deterministic_,
        reinterpret_cast<const float*>(DeviceData(inputs.learning_rate())),
        reinterpret_cast<const float*>(DeviceData(inputs.scale())),
        {},
        {}};
    std::copy(std::begin(attributes_.hyperparameters), std::end(attributes_.hyperparameters),
              update.hyperparameters);
    OP_REQUIRES_OK(c, OwnDeviceBuffer(c, inputs.table(), "table"));
    for (int s = 0; s < inputs.states(); ++s) {
      OP_REQUIRES_OK(c, OwnDeviceBuffer(c, inputs.state(s), absl::StrCat("state ", s)));
      update.states[s] = reinterpret_cast<float*>(MutableDeviceData(*inputs.state(s)->tensor()));
    }
    Tensor workspace;
    OP_REQUIRES_OK(c, AllocateWorkspace(c, inputs.ids(), batch.launch, update, &workspace));
    const auto launch = [&](cudaStream_t stream) {
      return dlrm_embedding_update(&batch.launch, &update, DeviceData(inputs.gradients()),
                                   MutableDeviceData(*inputs.table()->tensor()),
                                   MutableDeviceData(workspace), workspace.TotalBytes(), stream);
    };
    constexpr const char* kWhat = "embedding update";
    if (!side_stream_) {
      OP_REQUIRES_OK(c, CudaStatus(launch(StreamOf(c)), kWhat));
      return;
    }
    SideStream* side = nullptr;
    OP_REQUIRES_OK(c, SideStreamOf(c, &side));
    OP_REQUIRES_OK(c, CudaStatus(side->Run(HoldAll(inputs, workspace), launch, kWhat)));
  }

 private:
  static SideStream::Held HoldAll(const UpdateInputs& inputs, const Tensor& workspace) {
    SideStream::Held held = {Hold(inputs.table()),     Hold(inputs.ids()),
                             Hold(inputs.gradients()), Hold(inputs.learning_rate()),
                             Hold(inputs.scale()),     Hold(workspace)};
    if (kBags) held.push_back(Hold(inputs.offsets()));
    for (int s = 0; s < inputs.states(); ++s) held.push_back(Hold(inputs.state(s)));
    return held;
  }

  UpdateAttributes attributes_;
  bool deterministic_, side_stream_;
  GpuBags bags_;
};

#define DLRM_REGISTER_OP(op, kBags, R, T, Id)                 \
  REGISTER_KERNEL_BUILDER(Name(op)                            \
                              .Device(tensorflow::DEVICE_GPU) \
                              .HostMemory("table")            \
                              .HostMemory("states")           \
                              .HostMemory("base_rows")        \
                              .HostMemory("table_rows")       \
                              .TypeConstraint<R>("row_type")  \
                              .TypeConstraint<T>("T")         \
                              .TypeConstraint<Id>("Tids"),    \
                          GpuUpdateKernel<R, T, Id, kBags>);
#define DLRM_REGISTER(R, T, Id)                             \
  DLRM_REGISTER_OP("Dlrm>EmbeddingUpdate", false, R, T, Id) \
  DLRM_REGISTER_OP("Dlrm>EmbeddingBagUpdate", true, R, T, Id)
DLRM_FOR_EMBEDDING_TYPES(DLRM_REGISTER)
#undef DLRM_REGISTER
#undef DLRM_REGISTER_OP

}  // namespace
}  // namespace dlrm
