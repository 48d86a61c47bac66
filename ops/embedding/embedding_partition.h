// Partitions the updates of a batch into shards, so that no two threads write to the same row.
//
// A hash of its number assigns each row to one shard, and a shard's updates keep the order of the
// samples. So every row receives its updates in that order for any number of shards and threads:
// the result is bit for bit that of a sequential loop, without locks or atomics.

#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_PARTITION_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_PARTITION_H_

#include <algorithm>
#include <vector>

#include "embedding/embedding_tables.h"
#include "tensorflow/core/util/work_sharder.h"

namespace dlrm {

struct Partition {
  std::vector<RowUpdate> updates;  // sorted by shard, then by sample
  std::vector<int64_t> starts;     // [shards + 1], where each shard's updates begin

  int64_t shards() const { return static_cast<int64_t>(starts.size()) - 1; }
};

inline int64_t ShardOf(int64_t row, int64_t shards) {
  // Fibonacci hashing: the high half of the product depends on every bit of the row's number.
  const uint64_t mixed = (static_cast<uint64_t>(row) * 0x9e3779b97f4a7c15u) >> 32;
  return static_cast<int64_t>((mixed * static_cast<uint64_t>(shards)) >> 32);
}

// A counting sort by shard in two parallel passes over the ids; the first pass checks them all.
template <class Id>
Status MakePartition(const tensorflow::DeviceBase::CpuWorkerThreads& workers,
                     const tensorflow::Tensor& ids, const Tables& tables, int64_t shards,
                     Partition* partition) {
  const int64_t count = ids.NumElements();
  constexpr int64_t kBlock = 4096;
  const int64_t blocks = (count + kBlock - 1) / kBlock;
  std::vector<int64_t> rows(count);
  std::vector<int64_t> places(blocks * shards, 0);  // first counts, then next write positions
  RowFinder<Id> finder(ids, tables);
  const auto each_block = [&](const auto& work) {
    tensorflow::Shard(
        workers.num_threads, workers.workers, blocks, kBlock * 8, [&](int64_t begin, int64_t end) {
          for (int64_t b = begin; b < end; ++b) {
            work(b * kBlock, std::min(count, (b + 1) * kBlock), places.data() + b * shards);
          }
        });
  };
  each_block([&](int64_t begin, int64_t end, int64_t* counts) {
    if (!finder.Find(begin, end, rows.data() + begin)) return;
    for (int64_t k = begin; k < end; ++k) ++counts[ShardOf(rows[k], shards)];
  });
  TF_RETURN_IF_ERROR(finder.status());
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
  partition->updates.resize(count);
  each_block([&](int64_t begin, int64_t end, int64_t* next) {
    for (int64_t k = begin; k < end; ++k) {
      partition->updates[next[ShardOf(rows[k], shards)]++] = RowUpdate{rows[k], k};
    }
  });
  return Status();
}

// Links the updates of each row, in order, within one shard.
class ChainBuilder {
 public:
  UpdateChains Build(const RowUpdate* updates, int64_t count);

 private:
  std::vector<int64_t> next_;
  std::vector<int64_t> last_;  // the last update of each row so far
  std::vector<int64_t> first_;
  std::vector<int64_t> slots_;  // hash table of indices into first_, -1 where empty
};

}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_PARTITION_H_
