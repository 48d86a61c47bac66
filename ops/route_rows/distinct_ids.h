// Numbers the distinct ids of a table (route_bags.cc).
#ifndef DLRM_OPS_ROUTE_ROWS_DISTINCT_IDS_H_
#define DLRM_OPS_ROUTE_ROWS_DISTINCT_IDS_H_

#include <cstdint>
#include <vector>

namespace dlrm {

// The distinct ids of a table in order of appearance.
class DistinctIds {
 public:
  struct Id {
    int32_t id, first_sample, uses;
  };

  // Use `nth`, from 0 on, of the id with this number.
  struct Use {
    int32_t number, nth;
  };

  // For up to `most` distinct ids in [0, bound).
  DistinctIds(int64_t most, int64_t bound) {
    int64_t slots = 16;
    while (slots < most + most / 2) slots *= 2;
    direct_ = bound <= slots;  // an array of all ids is not larger
    mask_ = slots - 1;
    numbers_.assign(direct_ ? bound : slots, kNoNumber);
    ids_.reserve(most);
  }

  // Counts a use of an id.
  Use Add(int32_t id, int32_t sample) {
    uint64_t at = id;
    if (!direct_) {
      // Fibonacci hashing: the multiplier is 2^64 over the golden ratio.
      at = ((at * 0x9E3779B97F4A7C15ull) >> 20) & mask_;
      while (numbers_[at] != kNoNumber && ids_[numbers_[at]].id != id) at = (at + 1) & mask_;
    }
    int32_t& number = numbers_[at];
    if (number == kNoNumber) {
      number = ids_.size();
      ids_.push_back({id, sample, 0});
    }
    return {number, ids_[number].uses++};
  }

  int64_t count() const { return ids_.size(); }
  std::vector<Id>& all() { return ids_; }

 private:
  static constexpr int32_t kNoNumber = -1;

  std::vector<Id> ids_;
  std::vector<int32_t> numbers_;
  uint64_t mask_;
  bool direct_;
};

}  // namespace dlrm

#endif  // DLRM_OPS_ROUTE_ROWS_DISTINCT_IDS_H_
