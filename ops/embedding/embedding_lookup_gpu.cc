// TensorFlow's GPU kernels that read tables or fill them: lookup and initialisation.

#include "embedding/embedding_gpu.h"

namespace dlrm {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;

template <class R, class T, class Id>
class GpuLookupKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* c) override {
    tensorflow::core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(c, tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 0), &variable));
    tensorflow::tf_shared_lock lock(*variable->mu());
    OP_REQUIRES_OK(c, CheckVariable(*variable, tensorflow::DataTypeToEnum<R>::value, 2, "table"));
    const Tensor& table = *variable->tensor();
    const Tensor& ids = c->input(1);
    const int64_t dim = table.dim_size(1);
    GpuBatch batch;
    OP_REQUIRES_OK(
        c, (batch.Prepare<R, T, Id>(ids, c->input(2), c->input(3), table.dim_size(0), dim)));
    Tensor* output = nullptr;
    OP_REQUIRES_OK(
        c, c->allocate_output(0, TensorShape({ids.dim_size(0), ids.dim_size(1), dim}), &output));
    if (output->NumElements() == 0) return;
    OP_REQUIRES_OK(c, CudaStatus(dlrm_embedding_lookup(&batch.launch, DeviceData(table),
                                                       MutableDeviceData(*output), StreamOf(c)),
                                 "embedding lookup"));
  }
};

#define DLRM_REGISTER(R, T, Id)                               \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingLookup")        \
                              .Device(tensorflow::DEVICE_GPU) \
                              .HostMemory("table")            \
                              .HostMemory("base_rows")        \
                              .HostMemory("table_rows")       \
                              .TypeConstraint<R>("row_type")  \
                              .TypeConstraint<T>("dtype")     \
                              .TypeConstraint<Id>("Tids"),    \
                          GpuLookupKernel<R, T, Id>);
DLRM_FOR_EMBEDDING_TYPES(DLRM_REGISTER)
#undef DLRM_REGISTER

class GpuInitializeKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* c) override {
    tensorflow::core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(c, tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 0), &variable));
    for (int i = 1; i < 8; ++i) {
      OP_REQUIRES(c, c->input(i).dims() == 0,
                  InvalidArgument("input ", i, " must be a scalar, got shape ",
                                  c->input(i).shape().DebugString()));
    }
    const auto number = [c](int i) { return c->input(i).scalar<int64_t>()(); };
    const int64_t base_row = number(1), rows = number(2), table_index = number(3), seed = number(4),
                  first_row = number(5), row_stride = number(6);
    const float limit = c->input(7).scalar<float>()();
    tensorflow::mutex_lock lock(*variable->mu());
    OP_REQUIRES_OK(c, CheckVariable(*variable, tensorflow::DT_FLOAT, 2, "table"));
    const Tensor& table = *variable->tensor();
    OP_REQUIRES(c, table.RefCountIsOne(),
                FailedPrecondition(
                    "the table's value is held by a reader: initialise it before it is read"));
    OP_REQUIRES(c,
                base_row >= 0 && rows >= 0 && base_row <= table.dim_size(0) &&
                    rows <= table.dim_size(0) - base_row,
                InvalidArgument("rows [", base_row, ", ", base_row, " + ", rows,
                                ") do not lie within the table's ", table.dim_size(0), " rows"));
    OP_REQUIRES(c, table_index >= 0 && table_index <= INT64_C(0xffffffff),
                InvalidArgument("table_index must be in [0, 2^32), got ", table_index));
    OP_REQUIRES(c, first_row >= 0 && row_stride >= 1,
                InvalidArgument("first_row must be at least 0 and row_stride at least 1, got ",
                                first_row, " and ", row_stride));
    const int64_t dim = table.dim_size(1);
    if (rows == 0 || dim == 0) return;
    float* out = reinterpret_cast<float*>(MutableDeviceData(table)) + base_row * dim;
    OP_REQUIRES_OK(c, CudaStatus(dlrm_embedding_initialize(out, dim, rows, first_row, row_stride,
                                                           table_index, seed, limit, StreamOf(c)),
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

// Device memory needs no advice: CUDA backs large allocations with large pages itself.
class GpuAdviseHugePagesKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext*) override {}
};
REGISTER_KERNEL_BUILDER(
    Name("Dlrm>AdviseHugePages").Device(tensorflow::DEVICE_GPU).HostMemory("table"),
    GpuAdviseHugePagesKernel);

}  // namespace
}  // namespace dlrm
