// TensorFlow CPU kernels of the embedding updates.

#include "embedding/embedding_partition.h"

namespace dlrm {

using tensorflow::OpKernelContext;

Status ChainBuilder::Allocate(OpKernelContext* c, const Partition& partition) {
  TF_RETURN_IF_ERROR(slots_.Allocate(c, FirstSlot(partition.count(), partition.shards())));
  TF_RETURN_IF_ERROR(next_.Allocate(c, partition.count()));
  return first_.Allocate(c, partition.count());
}

UpdateChains ChainBuilder::Build(const Partition& partition, int64_t shard) const {
  const int64_t start = partition.starts[shard], end = partition.starts[shard + 1];
  const int64_t count = end - start;
  const RowUpdate* const updates = partition.updates.data() + start;
  uint32_t* const next = next_.data() + start;
  uint32_t* const first = first_.data() + start;
  Slot* const slots = slots_.data() + FirstSlot(start, shard);
  // At least one slot stays empty, so that searches end.
  const int64_t size = FirstSlot(end, shard + 1) - FirstSlot(start, shard);
  std::fill_n(slots, size, Slot{0, kNoUpdate});
  // Not the bits of the row's hash that assign it to the shard.
  const auto slot_of = [&](int64_t k) {
    return (static_cast<uint64_t>(updates[k].row * 0x85ebca6bu) * size) >> 32;
  };
  constexpr int64_t kAhead = 16;  // the table of a large shard is in no cache
  int64_t rows = 0;
  for (int64_t k = 0; k < count; ++k) {
    if (k + kAhead < count) __builtin_prefetch(&slots[slot_of(k + kAhead)], 1, 3);
    const uint32_t row = updates[k].row, update = static_cast<uint32_t>(k);
    next[k] = kNoUpdate;
    int64_t s = slot_of(k);
    while (slots[s].last != kNoUpdate && slots[s].row != row) s = s + 1 == size ? 0 : s + 1;
    if (slots[s].last == kNoUpdate) {
      first[rows++] = update;
    } else {
      next[slots[s].last] = update;
    }
    slots[s] = {row, update};
  }
  UpdateChains chains = partition.InOrder(shard);
  chains.next = next;
  chains.first = first;
  chains.row_count = rows;
  return chains;
}

namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
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
    ChainBuilder builder;
    if (!in_order) OP_REQUIRES_OK(c, builder.Allocate(c, partition));
    EachShard(c, partition, table.dimension, [&](int64_t shard) {
      if (in_order) {
        update(table, partition.InOrder(shard), gradients, step, nullptr);
        return;
      }
      std::vector<float> sum(SumFloats(table.dimension));
      update(table, builder.Build(partition, shard), gradients, step, sum.data());
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

  // Runs work(shard) for every shard.
  template <class Work>
  void EachShard(OpKernelContext* c, const Partition& partition, int64_t dimension,
                 const Work& work) {
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    const int64_t cycles = partition.count() / partition.shards() * (20 + dimension * 2);
    tensorflow::Shard(workers.num_threads, workers.workers, partition.shards(), cycles,
                      [&](int64_t begin, int64_t end) {
                        for (int64_t s = begin; s < end; ++s) work(s);
                      });
  }

  // More shards than threads balance the load when some threads are slowed down. But each shard
  // reads the gradients of its updates from memory: with many ids per bag, fewer shards read a
  // gradient less often.
  static constexpr int64_t kShardsPerThread = kBags ? 2 : 4;

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
