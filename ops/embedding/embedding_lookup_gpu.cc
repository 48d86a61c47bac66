// TensorFlow GPU kernels of the lookups and initialisation.

#include "embedding/embedding_gpu.h"

namespace dlrm {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;

// kBags: of Dlrm>EmbeddingBagLookup.
template <class R, class T, class Id, bool kBags>
class GpuLookupKernel : public OpKernel {
 public:
  explicit GpuLookupKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("side_stream", &side_stream_));
    if (kBags) OP_REQUIRES_OK(c, bags_.Read(c));
  }

  void Compute(OpKernelContext* c) override {
    tensorflow::core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(c, tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 0), &variable));
    tensorflow::tf_shared_lock lock(*variable->mu());
    OP_REQUIRES_OK(c, CheckVariable(*variable, tensorflow::DataTypeToEnum<R>::value, 2, "table"));
    const Tensor& table = *variable->tensor();
    const Tensor& ids = c->input(1);
    const int64_t dim = table.dim_size(1);
    GpuBatch batch;
    if (kBags) {
      OP_REQUIRES_OK(c, (batch.PrepareBags<R, T, Id>(ids, c->input(2), c->input(3), c->input(4),
                                                     table.dim_size(0), dim, bags_)));
    } else {
      OP_REQUIRES_OK(
          c, (batch.Prepare<R, T, Id>(ids, c->input(2), c->input(3), table.dim_size(0), dim)));
    }
    Tensor* output = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(
                          0, TensorShape({batch.launch.batch, batch.launch.tables, dim}), &output));
    if (output->NumElements() == 0) return;
    const auto launch = [&](cudaStream_t stream) {
      return dlrm_embedding_lookup(&batch.launch, DeviceData(table), MutableDeviceData(*output),
                                   stream);
    };
    constexpr const char* kWhat = "embedding lookup";
    if (!side_stream_) {
      OP_REQUIRES_OK(c, CudaStatus(launch(StreamOf(c)), kWhat));
      return;
    }
    SideStream* side = nullptr;
    OP_REQUIRES_OK(c, SideStreamOf(c, &side));
    SideStream::Held held = {Hold(variable.get()), Hold(ids), Hold(*output)};
    if (kBags) held.push_back(Hold(c->input(2)));  // offsets
    OP_REQUIRES_OK(c, CudaStatus(side->Run(std::move(held), launch, kWhat)));
  }

 private:
  bool side_stream_;
  GpuBags bags_;
};

#define DLRM_REGISTER_OP(op, kBags, R, T, Id)                 \
  REGISTER_KERNEL_BUILDER(Name(op)                            \
                              .Device(tensorflow::DEVICE_GPU) \
                              .HostMemory("table")            \
                              .HostMemory("base_rows")        \
                              .HostMemory("table_rows")       \
                              .TypeConstraint<R>("row_type")  \
                              .TypeConstraint<T>("dtype")     \
                              .TypeConstraint<Id>("Tids"),    \
                          GpuLookupKernel<R, T, Id, kBags>);
#define DLRM_REGISTER(R, T, Id)                             \
  DLRM_REGISTER_OP("Dlrm>EmbeddingLookup", false, R, T, Id) \
  DLRM_REGISTER_OP("Dlrm>EmbeddingBagLookup", true, R, T, Id)
DLRM_FOR_EMBEDDING_TYPES(DLRM_REGISTER)
#undef DLRM_REGISTER
#undef DLRM_REGISTER_OP

class GpuInitializeKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* c) override {
    InitializeInputs inputs;
    OP_REQUIRES_OK(c, inputs.Open(c));
    const int64_t dim = inputs.table().dim_size(1);
    if (inputs.rows == 0 || dim == 0) return;
    float* out =
        reinterpret_cast<float*>(MutableDeviceData(inputs.table())) + inputs.base_row * dim;
    OP_REQUIRES_OK(c, CudaStatus(dlrm_embedding_initialize(out, dim, inputs.rows, inputs.first_row,
                                                           inputs.row_stride, inputs.table_index,
                                                           inputs.seed, inputs.limit, StreamOf(c)),
                                 "initialising an embedding table"));
  }
};

REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingInitialize")
                            .Device(tensorflow::DEVICE_GPU)
                            .HostMemory("table")
                            .HostMemory("base_row")
                            .HostMemory("rows")
                            .HostMemory("table_index")
                            .HostMemory("seed")
                            .HostMemory("first_row")
                            .HostMemory("row_stride")
                            .HostMemory("limit"),
                        GpuInitializeKernel);

}  // namespace
}  // namespace dlrm
