// Rows that are partitioned over the ranks: owner = id mod N, row = id div N.
#ifndef DLRM_OPS_ROUTE_ROWS_PARTITION_H_
#define DLRM_OPS_ROUTE_ROWS_PARTITION_H_

#include <cstdint>

namespace dlrm {

class RankPartition {
 public:
  explicit RankPartition(uint32_t ranks) : ranks_(ranks) {
    while ((int64_t{1} << (shift_ - 31)) < ranks) ++shift_;
    multiplier_ = (uint64_t{1} << shift_) / ranks + 1;
  }

  // id div N for an id in [0, 2^31). A multiplication is faster than a division, and as exact: the
  // multiplier is too large by at most 1, and id / 2^shift is less than 1 / N.
  uint32_t Row(uint32_t id) const { return (id * multiplier_) >> shift_; }

  uint32_t Owner(uint32_t id) const { return id - Row(id) * ranks_; }

 private:
  uint32_t ranks_, shift_ = 31;
  uint64_t multiplier_;
};

}  // namespace dlrm

#endif  // DLRM_OPS_ROUTE_ROWS_PARTITION_H_
