// TensorFlow's GPU kernels of the embedding updates: SGD and Adagrad.

#include "embedding/embedding_gpu.h"

namespace dlrm {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Status;
using tensorflow::Tensor;
using tensorflow::TensorShape;
using tensorflow::Var;
using tensorflow::errors::InvalidArgument;

// Checks the inputs of an update and describes its batch; `first` is where ids stand among them.
template <class T, class Id>
Status PrepareUpdate(OpKernelContext* c, int first, const Tensor& table, GpuBatch* batch) {
  const Tensor &ids = c->input(first), &gradients = c->input(first + 1);
  const int64_t dim = table.dim_size(1);
  TF_RETURN_IF_ERROR((batch->Prepare<T, Id>(ids, c->input(first + 2), c->input(first + 3),
                                            table.dim_size(0), dim)));
  if (gradients.dims() != 3 || gradients.dim_size(0) != ids.dim_size(0) ||
      gradients.dim_size(1) != ids.dim_size(1) || gradients.dim_size(2) != dim) {
    return InvalidArgument("gradients must be [", ids.dim_size(0), ", ", ids.dim_size(1), ", ",
                           dim, "], got ", gradients.shape().DebugString());
  }
  for (int i = first + 4; i < first + 6; ++i) {
    if (c->input(i).dims() != 0) {
      return InvalidArgument("learning_rate and scale must be scalars, got shape ",
                             c->input(i).shape().DebugString());
    }
  }
  return Status();
}

// Device memory that a sorted update works in, from TensorFlow's allocator.
Status AllocateWorkspace(OpKernelContext* c, const DlrmEmbeddingBatch& batch, Tensor* workspace) {
  size_t bytes = 0;
  const cudaError_t code = dlrm_embedding_workspace_bytes(&batch, &bytes);
  if (code == cudaErrorInvalidValue) {
    return InvalidArgument("a sorted update takes fewer than 2^31 ids and 2^32 rows, got ids [",
                           batch.batch, ", ", batch.tables, "] and ", batch.total_rows, " rows");
  }
  TF_RETURN_IF_ERROR(CudaStatus(code, "workspace of an embedding update"));
  return c->allocate_temp(tensorflow::DT_UINT8, TensorShape({static_cast<int64_t>(bytes)}),
                          workspace);
}

float* FloatsOf(const Tensor& tensor) {
  return reinterpret_cast<float*>(MutableDeviceData(tensor));
}

template <class T, class Id>
class GpuSgdKernel : public OpKernel {
 public:
  explicit GpuSgdKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("deterministic", &deterministic_));
  }

  void Compute(OpKernelContext* c) override {
    tensorflow::core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(c, tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 0), &variable));
    tensorflow::mutex_lock lock(*variable->mu());
    OP_REQUIRES_OK(c, CheckVariable(*variable, 2, "table"));
    GpuBatch batch;
    OP_REQUIRES_OK(c, (PrepareUpdate<T, Id>(c, 1, *variable->tensor(), &batch)));
    if (c->input(2).NumElements() == 0) return;
    OP_REQUIRES_OK(c, OwnDeviceBuffer(c, variable.get()));
    float* rows = FloatsOf(*variable->tensor());
    const float step = c->input(5).scalar<float>()() * c->input(6).scalar<float>()();
    const char* gradients = DeviceData(c->input(2));
    if (!deterministic_) {
      OP_REQUIRES_OK(c, CudaStatus(dlrm_embedding_sgd(&batch.launch, gradients, rows, step,
                                                      StreamOf(c)),
                                   "embedding update"));
      return;
    }
    Tensor workspace;
    OP_REQUIRES_OK(c, AllocateWorkspace(c, batch.launch, &workspace));
    OP_REQUIRES_OK(c, CudaStatus(dlrm_embedding_sgd_sorted(
                                     &batch.launch, gradients, rows, step,
                                     MutableDeviceData(workspace), workspace.TotalBytes(),
                                     StreamOf(c)),
                                 "embedding update"));
  }

 private:
  bool deterministic_;
};

// Both values of `deterministic` give the one, sorted update: its duplicates must be summed before
// the accumulator moves, so atomics would gain nothing.
template <class T, class Id>
class GpuAdagradKernel : public OpKernel {
 public:
  explicit GpuAdagradKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES_OK(c, c->GetAttr("epsilon", &epsilon_));
  }

  void Compute(OpKernelContext* c) override {
    tensorflow::core::RefCountPtr<Var> variable, accumulator;
    OP_REQUIRES_OK(c, tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 0), &variable));
    OP_REQUIRES_OK(c,
                   tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 1), &accumulator));
    OP_REQUIRES(c, variable.get() != accumulator.get(),
                InvalidArgument("table and accumulator are the same variable"));
    // In the order of their addresses, as every op that locks two variables does.
    tensorflow::mutex_lock first_lock(*std::min(variable->mu(), accumulator->mu()));
    tensorflow::mutex_lock second_lock(*std::max(variable->mu(), accumulator->mu()));
    OP_REQUIRES_OK(c, CheckVariable(*variable, 2, "table"));
    const int accumulator_rank = accumulator->tensor()->dims() == 1 ? 1 : 2;
    OP_REQUIRES_OK(c, CheckVariable(*accumulator, accumulator_rank, "accumulator"));
    const Tensor &table = *variable->tensor(), &squares = *accumulator->tensor();
    OP_REQUIRES(
        c,
        squares.dim_size(0) == table.dim_size(0) &&
            (accumulator_rank == 1 || squares.dim_size(1) == table.dim_size(1)),
        InvalidArgument("accumulator must be [rows] or [rows, D] of the table ",
                        table.shape().DebugString(), ", got ", squares.shape().DebugString()));
    GpuBatch batch;
    OP_REQUIRES_OK(c, (PrepareUpdate<T, Id>(c, 2, table, &batch)));
    if (c->input(3).NumElements() == 0) return;
    OP_REQUIRES_OK(c, OwnDeviceBuffer(c, variable.get()));
    OP_REQUIRES_OK(c, OwnDeviceBuffer(c, accumulator.get()));
    Tensor workspace;
    OP_REQUIRES_OK(c, AllocateWorkspace(c, batch.launch, &workspace));
    OP_REQUIRES_OK(
        c, CudaStatus(dlrm_embedding_adagrad(
                          &batch.launch, DeviceData(c->input(3)), FloatsOf(*variable->tensor()),
                          FloatsOf(*accumulator->tensor()), accumulator_rank == 1,
                          c->input(6).scalar<float>()(), c->input(7).scalar<float>()(), epsilon_,
                          MutableDeviceData(workspace), workspace.TotalBytes(), StreamOf(c)),
                      "embedding update"));
  }

 private:
  float epsilon_;
};

#define DLRM_REGISTER(T, Id)                                  \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingUpdateSgd")     \
                              .Device(tensorflow::DEVICE_GPU) \
                              .HostMemory("table")            \
                              .HostMemory("base_rows")        \
                              .HostMemory("table_rows")       \
                              .HostMemory("learning_rate")    \
                              .HostMemory("scale")            \
                              .TypeConstraint<T>("T")         \
                              .TypeConstraint<Id>("Tids"),    \
                          GpuSgdKernel<T, Id>);               \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingUpdateAdagrad") \
                              .Device(tensorflow::DEVICE_GPU) \
                              .HostMemory("table")            \
                              .HostMemory("accumulator")      \
                              .HostMemory("base_rows")        \
                              .HostMemory("table_rows")       \
                              .HostMemory("learning_rate")    \
                              .HostMemory("scale")            \
                              .TypeConstraint<T>("T")         \
                              .TypeConstraint<Id>("Tids"),    \
                          GpuAdagradKernel<T, Id>);
DLRM_REGISTER(float, tensorflow::int32)
DLRM_REGISTER(float, tensorflow::int64)
DLRM_REGISTER(tensorflow::bfloat16, tensorflow::int32)
DLRM_REGISTER(tensorflow::bfloat16, tensorflow::int64)
DLRM_REGISTER(Eigen::half, tensorflow::int32)
DLRM_REGISTER(Eigen::half, tensorflow::int64)
#undef DLRM_REGISTER

}  // namespace
}  // namespace dlrm
