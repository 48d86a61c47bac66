// The requests of a batch of bags while they are found (route_bags.cc).
#ifndef DLRM_OPS_ROUTE_ROWS_BAG_REQUESTS_H_
#define DLRM_OPS_ROUTE_ROWS_BAG_REQUESTS_H_

#include <cstdint>
#include <vector>

namespace dlrm {

// The requests of a batch in the order in which bags need them, and the vectors of each bag.
struct Requests {
  std::vector<int32_t> owners, sizes, rows;
  std::vector<int32_t> vectors, bags;  // one element per contribution of a vector to a bag

  int32_t Add(int32_t owner, int32_t size) {
    owners.push_back(owner);
    sizes.push_back(size);
    return static_cast<int32_t>(owners.size()) - 1;
  }

  void Contribute(int32_t vector, int32_t bag) {
    vectors.push_back(vector);
    bags.push_back(bag);
  }
};

// Numbers distinct ids of a table in order of appearance.
class IdNumbers {
 public:
  // For up to `most` ids in [0, bound).
  IdNumbers(int64_t most, int64_t bound) {
    int64_t slots = 16;
    while (slots < 2 * most) slots *= 2;
    direct_ = bound <= slots;  // an array of all ids is not larger
    mask_ = slots - 1;
    numbers_.assign(direct_ ? bound : slots, kNoNumber);
    if (!direct_) ids_.resize(slots);
  }

  int32_t Number(int32_t id) {
    uint64_t slot = id;
    if (!direct_) {
      // Fibonacci hashing: the multiplier is 2^64 over the golden ratio.
      slot = ((slot * 0x9E3779B97F4A7C15ull) >> 20) & mask_;
      while (numbers_[slot] != kNoNumber && ids_[slot] != id) slot = (slot + 1) & mask_;
      ids_[slot] = id;
    }
    if (numbers_[slot] == kNoNumber) numbers_[slot] = count_++;
    return numbers_[slot];
  }

  int32_t count() const { return count_; }

 private:
  static constexpr int32_t kNoNumber = -1;

  std::vector<int32_t> numbers_, ids_;
  uint64_t mask_;
  bool direct_;
  int32_t count_ = 0;
};

}  // namespace dlrm

#endif  // DLRM_OPS_ROUTE_ROWS_BAG_REQUESTS_H_
