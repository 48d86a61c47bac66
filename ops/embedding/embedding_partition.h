// Partitions the updates of a batch into shards, so that no two threads write to the same row.
//
// A hash of its number assigns each row to one shard, and a shard's updates keep the order of the
// batch. So every row receives its updates in that order for any number of shards and threads: the
// result is bit for bit that of a sequential loop, without locks or atomics.

#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_PARTITION_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_PARTITION_H_

#include <algorithm>
#include <vector>

#include "embedding/embedding_bags.h"
#include "tensorflow/core/util/work_sharder.h"

namespace dlrm {

// Memory that is not initialised, for numbers that will all be written before they are read. From
// TensorFlow's allocator: fresh pages of the system in every step would cost more than the sort.
template <class Number>
class Uninitialised {
 public:
  Status Allocate(tensorflow::OpKernelContext* c, int64_t count) {
    return c->allocate_temp(tensorflow::DT_UINT8, {count * static_cast<int64_t>(sizeof(Number))},
                            &memory_);
  }
  Number* data() const { return MutableElementsOf<Number>(memory_); }

 private:
  tensorflow::Tensor memory_;
};

struct Partition {
  Uninitialised<RowUpdate> updates;  // sorted by shard, then by sample
  std::vector<int64_t> starts;       // [shards + 1], where each shard's updates begin
  std::vector<float> factors;        // of each bag's gradient; empty: 1

  int64_t shards() const { return static_cast<int64_t>(starts.size()) - 1; }
  int64_t count() const { return starts.back(); }
  // The updates of one shard, not linked.
  UpdateChains InOrder(int64_t shard) const {
    return {updates.data() + starts[shard],
            starts[shard + 1] - starts[shard],
            factors.empty() ? nullptr : factors.data(),
            nullptr,
            nullptr,
            0};
  }
};

inline int64_t ShardOf(int64_t row, int64_t shards) {
  // Fibonacci hashing: the high half of the product depends on every bit of the row's number.
  const uint64_t mixed = (static_cast<uint64_t>(row) * 0x9e3779b97f4a7c15u) >> 32;
  return static_cast<int64_t>((mixed * static_cast<uint64_t>(shards)) >> 32);
}

// A counting sort by shard in two parallel passes over the ids; the first pass checks them all.
// `attributes`: of bags, else null.
template <class Id>
Status MakePartition(tensorflow::OpKernelContext* c, const tensorflow::Tensor& ids,
                     const Tables& tables, const BatchOfBags& bags, const BagAttributes* attributes,
                     int64_t shards, Partition* partition) {
  const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
  // A block for each counter of shards: more blocks balance the load, fewer have fewer counters.
  constexpr int64_t kMinBlock = 4096, kBlocksPerThread = 16;
  const int64_t units = bags.units();
  const int64_t blocks = std::max<int64_t>(
      1, std::min<int64_t>(workers.num_threads * kBlocksPerThread, bags.ids() / kMinBlock));
  std::vector<int64_t> places(blocks * shards, 0);  // first counts, then next write positions
  BagRows<Id> rows(ids, tables, bags);
  const auto each_block = [&](const auto& work) {
    const int64_t cycles = (units + bags.ids()) / blocks * 4;
    tensorflow::Shard(workers.num_threads, workers.workers, blocks, cycles,
                      [&](int64_t begin, int64_t end) {
                        std::vector<int64_t> own(shards);  // not shared cache lines
                        for (int64_t b = begin; b < end; ++b) {
                          int64_t* const place = places.data() + b * shards;
                          std::copy_n(place, shards, own.data());
                          work(bags.FirstBag(units * b / blocks),
                               bags.FirstBag(units * (b + 1) / blocks), own.data());
                          std::copy_n(own.data(), shards, place);
                        }
                      });
  };
  float* factors = nullptr;
  if (attributes != nullptr && attributes->any_mean()) {
    partition->factors.resize(bags.bags());
    factors = partition->factors.data();
  }
  each_block([&](int64_t first, int64_t last, int64_t* counts) {
    rows.template Each<true>(
        first, last, [&](int64_t, int64_t row) { ++counts[ShardOf(row, shards)]; },
        [&](int64_t bag, int64_t t, int64_t count) {
          if (factors != nullptr) factors[bag] = attributes->FactorOf(t, count);
        });
  });
  TF_RETURN_IF_ERROR(rows.status());
  partition->starts.assign(shards + 1, 0);
  int64_t place = 0;
  for (int64_t s = 0; s < shards; ++s) {
    partition->starts[s] = place;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t count_in_block = places[b * shards + s];
      places[b * shards + s] = place;
      place += count_in_block;
    }
  }
  partition->starts[shards] = place;
  TF_RETURN_IF_ERROR(partition->updates.Allocate(c, place));
  RowUpdate* const updates = partition->updates.data();
  each_block([&](int64_t first, int64_t last, int64_t* next) {
    rows.template Each<false>(
        first, last,
        [&](int64_t bag, int64_t row) {
          updates[next[ShardOf(row, shards)]++] = {static_cast<uint32_t>(row),
                                                   static_cast<uint32_t>(bag)};
        },
        [](int64_t, int64_t, int64_t) {});
  });
  return Status();
}

// Links the updates of each row, in order, within each shard.
class ChainBuilder {
 public:
  // Allocates the memory of all shards.
  Status Allocate(tensorflow::OpKernelContext* c, const Partition& partition);

  // Of one shard. Thread-safe for different shards.
  UpdateChains Build(const Partition& partition, int64_t shard) const;

 private:
  // A row and its last update so far; kNoUpdate: an empty slot.
  struct Slot {
    uint32_t row, last;
  };
  // Slots of the hash tables of the shards before the one that begins at update `start`.
  static int64_t FirstSlot(int64_t start, int64_t shard) { return start + start / 2 + 2 * shard; }

  Uninitialised<Slot> slots_;
  Uninitialised<uint32_t> next_, first_;
};

}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_PARTITION_H_
