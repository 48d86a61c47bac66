// TensorFlow CPU kernels of the embedding updates.

#include <memory>

#include "embedding/embedding_partition.h"

namespace dlrm {

UpdateChains ChainBuilder::Build(const RowUpdate* updates, int64_t count, const float* factors) {
  size_t size = 16;
  while (size < static_cast<size_t>(count) * 2) size *= 2;
  slots_.assign(size, {0, kNoUpdate});
  if (count > capacity_) {
    next_.reset(new uint32_t[count]);
    first_.reset(new uint32_t[count]);
    capacity_ = count;
  }
  const auto slot_of = [&](int64_t k) {
    return ((static_cast<uint64_t>(updates[k].row) * 0x9e3779b97f4a7c15u) >> 20) & (size - 1);
  };
  constexpr int64_t kAhead = 16;  // the table of a large shard is in no cache
  int64_t rows = 0;
  for (int64_t k = 0; k < count; ++k) {
    if (k + kAhead < count) __builtin_prefetch(&slots_[slot_of(k + kAhead)], 1, 3);
    const uint32_t row = updates[k].row, update = static_cast<uint32_t>(k);
    next_[k] = kNoUpdate;
    for (size_t s = slot_of(k);; s = (s + 1) & (size - 1)) {
      Slot& slot = slots_[s];
      if (slot.last == kNoUpdate) {
        slot = {row, update};
        first_[rows++] = update;
        break;
      }
      if (slot.row == row) {
        next_[slot.last] = update;
        slot.last = update;
        break;
      }
    }
  }
  return {updates, count, factors, next_.get(), first_.get(), rows};
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

// kBags: Dlrm>EmbeddingBagUpdate.
template <class R, class T, class Id, bool kBags>
class UpdateKernel : public OpKernel {
 public:
  using Row = typename NativeElement<R>::Type;
  using Element = typename NativeElement<T>::Type;

  explicit UpdateKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES(c, InstructionSetError()[0] == '\0', InvalidArgument(InstructionSetError()));
    OP_REQUIRES_OK(c, attributes_.Read(c));
    if (kBags) OP_REQUIRES_OK(c, bag_attributes_.Read(c));
  }

  void Compute(OpKernelContext* c) override {
    UpdateInputs inputs;
    OP_REQUIRES_OK(c, inputs.Open(c, attributes_, tensorflow::DataTypeToEnum<R>::value,
                                  kBags ? &bag_attributes_ : nullptr));
    Partition partition;
    OP_REQUIRES_OK(c, DivideBatch(c, inputs, &partition));
    RowStep step{inputs.learning_rate().scalar<float>()(), inputs.scale().scalar<float>()(), {}};
    if (partition.count() == 0 || step.scale == 0.0f) return;
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
    const float* factors = partition.factors.empty() ? nullptr : partition.factors.data();
    EachShard(c, partition, table.dimension, [&](const RowUpdate* updates, int64_t count) {
      if (in_order) {
        update(table, {updates, count, factors, nullptr, nullptr, 0}, gradients, step, nullptr);
        return;
      }
      ChainBuilder builder;
      const UpdateChains chains = builder.Build(updates, count, factors);
      std::vector<float> sum((table.dimension + 15) / 16 * 16);
      update(table, chains, gradients, step, sum.data());
    });
  }

 private:
  // Checks the ids and divides the updates into shards.
  Status DivideBatch(OpKernelContext* c, const UpdateInputs& inputs, Partition* partition) {
    const Tensor& ids = inputs.ids();
    const int64_t rows = inputs.table()->tensor()->dim_size(0);
    Tables tables;
    int64_t batch = 0;
    if (kBags) {
      TF_RETURN_IF_ERROR(ReadBags(ids, inputs.offsets(), inputs.base_rows(), inputs.table_rows(),
                                  rows, bag_attributes_, &tables, &batch));
      if (bag_attributes_.has_offsets()) {
        TF_RETURN_IF_ERROR(CheckOffsets(inputs.offsets(), ids.NumElements()));
      }
    } else {
      TF_RETURN_IF_ERROR(ReadTables(ids, inputs.base_rows(), inputs.table_rows(), rows, &tables));
    }
    const BatchOfBags bags = kBags ? BatchOfBags(ids, inputs.offsets(), bag_attributes_, batch)
                                   : BatchOfBags(ids, static_cast<int64_t>(tables.base.size()));
    constexpr int64_t kLimit = int64_t{1} << 32;
    if (rows > kLimit || bags.bags() > kLimit || bags.ids() >= kLimit) {
      return InvalidArgument("an update supports at most 2^32 rows and fewer than 2^32 ids, got ",
                             rows, " rows and ids ", ids.shape().DebugString());
    }
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    // A smaller shard costs less than waking a thread for it.
    constexpr int64_t kMinShard = 256;
    const int64_t shards = std::max<int64_t>(
        1, std::min<int64_t>(workers.num_threads * kShardsPerThread, bags.ids() / kMinShard));
    return MakePartition<Id>(c, ids, tables, bags, kBags ? &bag_attributes_ : nullptr, shards,
                             partition);
  }

  // Runs work(updates, count) for every shard.
  template <class Work>
  void EachShard(OpKernelContext* c, const Partition& partition, int64_t dimension,
                 const Work& work) {
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    const int64_t cycles = partition.count() / partition.shards() * (20 + dimension * 2);
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
  BagAttributes bag_attributes_;
  HugePages huge_pages_[1 + kMaxRowStates];
};

#define DLRM_REGISTER(R, T, Id)                               \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingUpdate")        \
                              .Device(tensorflow::DEVICE_CPU) \
                              .TypeConstraint<R>("row_type")  \
                              .TypeConstraint<T>("T")         \
                              .TypeConstraint<Id>("Tids"),    \
                          UpdateKernel<R, T, Id, false>);     \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingBagUpdate")     \
                              .Device(tensorflow::DEVICE_CPU) \
                              .TypeConstraint<R>("row_type")  \
                              .TypeConstraint<T>("T")         \
                              .TypeConstraint<Id>("Tids"),    \
                          UpdateKernel<R, T, Id, true>);
DLRM_FOR_EMBEDDING_TYPES(DLRM_REGISTER)
#undef DLRM_REGISTER

}  // namespace
}  // namespace dlrm
