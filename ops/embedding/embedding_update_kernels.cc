// TensorFlow CPU kernel of the embedding update.

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
  return {updates, count, next_.data(), first_.data(), static_cast<int64_t>(first_.size())};
}

namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;

Status OwnHostBuffer(OpKernelContext* c, Var* variable, const std::string& role) {
  return OwnBuffer(c, variable, role, [](const Tensor& from, const Tensor& to) {
    memcpy(MutableElementsOf<char>(to), from.tensor_data().data(), from.TotalBytes());
    return Status();
  });
}

template <class R, class T, class Id>
class UpdateKernel : public OpKernel {
 public:
  using Row = typename NativeElement<R>::Type;
  using Element = typename NativeElement<T>::Type;

  explicit UpdateKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES(c, InstructionSetError()[0] == '\0', InvalidArgument(InstructionSetError()));
    OP_REQUIRES_OK(c, attributes_.Read(c));
  }

  void Compute(OpKernelContext* c) override {
    UpdateInputs inputs;
    OP_REQUIRES_OK(c, inputs.Open(c, attributes_, tensorflow::DataTypeToEnum<R>::value));
    Partition partition;
    OP_REQUIRES_OK(c, DivideBatch(c, inputs, &partition));
    RowStep step{inputs.learning_rate().scalar<float>()(), inputs.scale().scalar<float>()(), {}};
    if (partition.updates.empty() || step.scale == 0.0f) return;
    std::copy(std::begin(attributes_.hyperparameters), std::end(attributes_.hyperparameters),
              step.hyperparameters);
    RowsAndStates<Row> table;
    OP_REQUIRES_OK(c, OwnHostBuffer(c, inputs.table(), "table"));
    const Tensor& rows = *inputs.table()->tensor();
    huge_pages_[0].Advise(rows);
    table.rows = MutableElementsOf<Row>(rows);
    table.dimension = rows.dim_size(1);
    for (int s = 0; s < inputs.states(); ++s) {
      OP_REQUIRES_OK(c, OwnHostBuffer(c, inputs.state(s), absl::StrCat("state ", s)));
      const Tensor& state = *inputs.state(s)->tensor();
      huge_pages_[1 + s].Advise(state);
      table.states[s] = MutableElementsOf<float>(state);
    }
    const auto update =
        EmbeddingFor<Row, Element>(CurrentInstructionSet()).update[attributes_.optimizer];
    const bool in_order = FactsOfRowRule(attributes_.optimizer).in_order;
    const Element* gradients = ElementsOf<Element>(inputs.gradients());
    EachShard(c, partition, table.dimension, [&](const RowUpdate* updates, int64_t count) {
      if (in_order) {
        update(table, {updates, count, nullptr, nullptr, 0}, gradients, step, nullptr);
        return;
      }
      ChainBuilder builder;
      const UpdateChains chains = builder.Build(updates, count);
      std::vector<float> sum((table.dimension + 15) / 16 * 16);
      update(table, chains, gradients, step, sum.data());
    });
  }

 private:
  // Checks the ids and divides the updates into shards.
  Status DivideBatch(OpKernelContext* c, const UpdateInputs& inputs, Partition* partition) {
    const Tensor& ids = inputs.ids();
    Tables tables;
    TF_RETURN_IF_ERROR(ReadTables(ids, inputs.base_rows(), inputs.table_rows(),
                                  inputs.table()->tensor()->dim_size(0), &tables));
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    // A smaller shard costs less than waking a thread for it.
    constexpr int64_t kMinShard = 256;
    const int64_t shards = std::max<int64_t>(
        1,
        std::min<int64_t>(workers.num_threads * kShardsPerThread, ids.NumElements() / kMinShard));
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
                          work(partition.updates.data() + start, partition.starts[s + 1] - start);
                        }
                      });
  }

  // More shards than threads balance the load when some threads are slowed down.
  static constexpr int64_t kShardsPerThread = 4;

  UpdateAttributes attributes_;
  HugePages huge_pages_[1 + kMaxRowStates];
};

#define DLRM_REGISTER(R, T, Id)                               \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingUpdate")        \
                              .Device(tensorflow::DEVICE_CPU) \
                              .TypeConstraint<R>("row_type")  \
                              .TypeConstraint<T>("T")         \
                              .TypeConstraint<Id>("Tids"),    \
                          UpdateKernel<R, T, Id>);
DLRM_FOR_EMBEDDING_TYPES(DLRM_REGISTER)
#undef DLRM_REGISTER

}  // namespace
}  // namespace dlrm
