// TensorFlow's CPU kernels of the embedding updates: SGD and Adagrad.

#include <memory>

#include "embedding/embedding_partition.h"

namespace dlrm {

UpdateChains ChainBuilder::Build(const RowUpdate* updates, int64_t count) {
  size_t size = 16;
  while (size < static_cast<size_t>(count) * 2) size *= 2;
  slots_.assign(size, -1);
  next_.assign(count, -1);
  first_.clear();
  last_.clear();
  for (int64_t k = 0; k < count; ++k) {
    const int64_t row = updates[k].row;
    size_t slot = (static_cast<uint64_t>(row) * 0x9e3779b97f4a7c15u) >> 20;
    for (;; ++slot) {
      slot &= size - 1;
      const int64_t chain = slots_[slot];
      if (chain < 0) {
        slots_[slot] = static_cast<int64_t>(first_.size());
        first_.push_back(k);
        last_.push_back(k);
        break;
      }
      if (updates[first_[chain]].row == row) {
        next_[last_[chain]] = k;
        last_[chain] = k;
        break;
      }
    }
  }
  return {updates, next_.data(), first_.data(), static_cast<int64_t>(first_.size())};
}

namespace {

using tensorflow::mutex_lock;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Status;
using tensorflow::Tensor;
using tensorflow::Var;
using tensorflow::errors::InvalidArgument;

// Gives the variable a buffer of its own if a reader still holds the one it has: a value that was
// read before the update must not change.
Status OwnBuffer(OpKernelContext* c, Var* variable) {
  Tensor* tensor = variable->tensor();
  if (tensor->RefCountIsOne()) return Status();
  Tensor copy;
  TF_RETURN_IF_ERROR(c->allocate_temp(tensor->dtype(), tensor->shape(), &copy));
  memcpy(MutableElementsOf<char>(copy), tensor->tensor_data().data(), tensor->TotalBytes());
  *tensor = copy;
  return Status();
}

// What both updates take: the ids' tables, the gradients, and how the work is dealt out.
template <class T, class Id>
class UpdateKernel : public OpKernel {
 public:
  using Element = typename NativeElement<T>::Type;

  explicit UpdateKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES(c, InstructionSetError()[0] == '\0', InvalidArgument(InstructionSetError()));
  }

 protected:
  // Checks everything, then deals the updates out. `first` is where ids stand among the inputs.
  Status Prepare(OpKernelContext* c, int first, const Tensor& table, Partition* partition) {
    const Tensor &ids = c->input(first), &gradients = c->input(first + 1);
    Tables tables;
    TF_RETURN_IF_ERROR(
        ReadTables(ids, c->input(first + 2), c->input(first + 3), table.dim_size(0), &tables));
    const int64_t dimension = table.dim_size(1);
    if (gradients.dims() != 3 || gradients.dim_size(0) != ids.dim_size(0) ||
        gradients.dim_size(1) != ids.dim_size(1) || gradients.dim_size(2) != dimension) {
      return InvalidArgument("gradients must be [", ids.dim_size(0), ", ", ids.dim_size(1), ", ",
                             dimension, "], got ", gradients.shape().DebugString());
    }
    for (int i = first + 4; i < first + 6; ++i) {
      if (c->input(i).dims() != 0) {
        return InvalidArgument("learning_rate and scale must be scalars, got shape ",
                               c->input(i).shape().DebugString());
      }
    }
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    // Below this many updates a shard is not worth a thread's wake-up.
    constexpr int64_t kWorthAShard = 256;
    const int64_t shards = std::max<int64_t>(
        1, std::min<int64_t>(workers.num_threads * kShardsAThread,
                             ids.NumElements() / kWorthAShard));
    return MakePartition<Id>(workers, ids, tables, shards, partition);
  }

  // Runs work(updates, count) for every shard.
  template <class Work>
  void EachShard(OpKernelContext* c, const Partition& partition, int64_t dimension,
                 const Work& work) {
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    const int64_t updates = static_cast<int64_t>(partition.updates.size());
    const int64_t cycles = updates / partition.shards() * (20 + dimension * 2);
    tensorflow::Shard(workers.num_threads, workers.workers, partition.shards(), cycles,
                      [&](int64_t begin, int64_t end) {
                        for (int64_t s = begin; s < end; ++s) {
                          const int64_t start = partition.starts[s];
                          work(partition.updates.data() + start,
                               partition.starts[s + 1] - start);
                        }
                      });
  }

  // More shards than threads even out threads that the machine slows down.
  static constexpr int64_t kShardsAThread = 4;

  HugePages huge_pages_;
};

template <class T, class Id>
class SgdKernel : public UpdateKernel<T, Id> {
 public:
  using UpdateKernel<T, Id>::UpdateKernel;

  void Compute(OpKernelContext* c) override {
    using Element = typename UpdateKernel<T, Id>::Element;
    tensorflow::core::RefCountPtr<Var> variable;
    OP_REQUIRES_OK(c, tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 0), &variable));
    mutex_lock lock(*variable->mu());
    OP_REQUIRES_OK(c, CheckVariable(*variable, 2, "table"));
    Partition partition;
    OP_REQUIRES_OK(c, this->Prepare(c, 1, *variable->tensor(), &partition));
    if (partition.updates.empty()) return;
    OP_REQUIRES_OK(c, OwnBuffer(c, variable.get()));
    const Tensor& table = *variable->tensor();
    this->huge_pages_.Advise(table);
    const auto functions = EmbeddingFor<Element>(CurrentInstructionSet());
    float* rows = MutableElementsOf<float>(table);
    const Element* gradients = ElementsOf<Element>(c->input(2));
    const float step = c->input(5).scalar<float>()() * c->input(6).scalar<float>()();
    const int64_t dimension = table.dim_size(1);
    this->EachShard(c, partition, dimension, [&](const RowUpdate* updates, int64_t count) {
      functions.sgd(rows, dimension, updates, count, gradients, step);
    });
  }
};

template <class T, class Id>
class AdagradKernel : public UpdateKernel<T, Id> {
 public:
  explicit AdagradKernel(OpKernelConstruction* c) : UpdateKernel<T, Id>(c) {
    OP_REQUIRES_OK(c, c->GetAttr("epsilon", &epsilon_));
  }

  void Compute(OpKernelContext* c) override {
    using Element = typename UpdateKernel<T, Id>::Element;
    tensorflow::core::RefCountPtr<Var> variable, accumulator;
    OP_REQUIRES_OK(c, tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 0), &variable));
    OP_REQUIRES_OK(c,
                   tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 1), &accumulator));
    OP_REQUIRES(c, variable.get() != accumulator.get(),
                InvalidArgument("table and accumulator are the same variable"));
    // In the order of their addresses, as every op that locks two variables does.
    tensorflow::mutex* first = std::min(variable->mu(), accumulator->mu());
    tensorflow::mutex* second = std::max(variable->mu(), accumulator->mu());
    mutex_lock first_lock(*first), second_lock(*second);
    OP_REQUIRES_OK(c, CheckVariable(*variable, 2, "table"));
    const int accumulator_rank = accumulator->tensor()->dims() == 1 ? 1 : 2;
    OP_REQUIRES_OK(c, CheckVariable(*accumulator, accumulator_rank, "accumulator"));
    const Tensor& shaped = *accumulator->tensor();
    const Tensor& unshaped = *variable->tensor();
    OP_REQUIRES(
        c,
        shaped.dim_size(0) == unshaped.dim_size(0) &&
            (accumulator_rank == 1 || shaped.dim_size(1) == unshaped.dim_size(1)),
        InvalidArgument("accumulator must be [rows] or [rows, D] of the table ",
                        unshaped.shape().DebugString(), ", got ", shaped.shape().DebugString()));
    Partition partition;
    OP_REQUIRES_OK(c, this->Prepare(c, 2, unshaped, &partition));
    if (partition.updates.empty()) return;
    OP_REQUIRES_OK(c, OwnBuffer(c, variable.get()));
    OP_REQUIRES_OK(c, OwnBuffer(c, accumulator.get()));
    const Tensor& table = *variable->tensor();
    this->huge_pages_.Advise(table);
    accumulator_pages_.Advise(*accumulator->tensor());
    const auto functions = EmbeddingFor<Element>(CurrentInstructionSet());
    float* rows = MutableElementsOf<float>(table);
    float* squares = MutableElementsOf<float>(*accumulator->tensor());
    const Element* gradients = ElementsOf<Element>(c->input(3));
    const AdagradStep step{c->input(6).scalar<float>()(), c->input(7).scalar<float>()(), epsilon_,
                           accumulator_rank == 1};
    const int64_t dimension = table.dim_size(1);
    this->EachShard(c, partition, dimension, [&](const RowUpdate* updates, int64_t count) {
      ChainBuilder builder;
      const UpdateChains chains = builder.Build(updates, count);
      std::vector<float> sum((dimension + 15) / 16 * 16);
      functions.adagrad(rows, squares, dimension, chains, gradients, step, sum.data());
    });
  }

 private:
  float epsilon_;
  HugePages accumulator_pages_;
};

#define DLRM_REGISTER(T, Id)                                   \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingUpdateSgd")      \
                              .Device(tensorflow::DEVICE_CPU)  \
                              .TypeConstraint<T>("T")          \
                              .TypeConstraint<Id>("Tids"),     \
                          SgdKernel<T, Id>);                   \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingUpdateAdagrad")  \
                              .Device(tensorflow::DEVICE_CPU)  \
                              .TypeConstraint<T>("T")          \
                              .TypeConstraint<Id>("Tids"),     \
                          AdagradKernel<T, Id>);
DLRM_REGISTER(float, tensorflow::int32)
DLRM_REGISTER(float, tensorflow::int64)
DLRM_REGISTER(tensorflow::bfloat16, tensorflow::int32)
DLRM_REGISTER(tensorflow::bfloat16, tensorflow::int64)
DLRM_REGISTER(Eigen::half, tensorflow::int32)
DLRM_REGISTER(Eigen::half, tensorflow::int64)
#undef DLRM_REGISTER

}  // namespace
}  // namespace dlrm
