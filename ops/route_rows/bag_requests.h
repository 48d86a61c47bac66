// The requests of a batch of bags while they are found (route_bags.cc).
#ifndef DLRM_OPS_ROUTE_ROWS_BAG_REQUESTS_H_
#define DLRM_OPS_ROUTE_ROWS_BAG_REQUESTS_H_

#include <cstdint>
#include <vector>

namespace dlrm {

// A request before the number of requests to other owners is known.
using RequestId = int64_t;  // owner * 2^32 + index among the requests to this owner
constexpr RequestId kNoRequest = -1;

// The requests of a batch by owner, in the order in which bags need them, and the vectors of each
// bag.
struct Requests {
  struct OfOwner {
    std::vector<int32_t> sizes, divisors, rows;
  };

  std::vector<OfOwner> owners;
  std::vector<RequestId> vectors;  // this and `bags`: an element per contribution
  std::vector<int32_t> bags;

  // For about `rows` rows; more are possible.
  Requests(int64_t ranks, int64_t rows) : owners(ranks) {
    for (OfOwner& owner : owners) owner.rows.reserve(rows / ranks + rows / ranks / 8);
  }

  // Adds a request without rows.
  RequestId Add(int32_t owner, int32_t divisor) {
    OfOwner& own = owners[owner];
    own.sizes.push_back(0);
    own.divisors.push_back(divisor);
    return (static_cast<RequestId>(owner) << 32) + static_cast<int64_t>(own.sizes.size()) - 1;
  }

  // Adds a row to the newest request to an owner.
  void AddRow(int32_t owner, int32_t row) {
    OfOwner& own = owners[owner];
    ++own.sizes.back();
    own.rows.push_back(row);
  }

  void Contribute(RequestId vector, int32_t bag) {
    vectors.push_back(vector);
    bags.push_back(bag);
  }
};

// Numbers distinct ids of a table in order of appearance.
class IdNumbers {
 public:
  // For up to `most` distinct ids in [0, bound).
  IdNumbers(int64_t most, int64_t bound) {
    int64_t slots = 16;
    while (slots < 2 * most) slots *= 2;
    direct_ = bound <= slots;  // an array of all ids is not larger
    mask_ = slots - 1;
    slots_.assign(direct_ ? bound : slots, Slot{kNoNumber, kNoNumber});
  }

  int32_t Number(int32_t id) {
    uint64_t at = id;
    if (!direct_) {
      // Fibonacci hashing: the multiplier is 2^64 over the golden ratio.
      at = ((at * 0x9E3779B97F4A7C15ull) >> 20) & mask_;
      while (slots_[at].number != kNoNumber && slots_[at].id != id) at = (at + 1) & mask_;
    }
    Slot& slot = slots_[at];
    if (slot.number == kNoNumber) slot = {id, count_++};
    return slot.number;
  }

  int32_t count() const { return count_; }

 private:
  static constexpr int32_t kNoNumber = -1;

  struct Slot {
    int32_t id, number;
  };

  std::vector<Slot> slots_;
  uint64_t mask_;
  bool direct_;
  int32_t count_ = 0;
};

}  // namespace dlrm

#endif  // DLRM_OPS_ROUTE_ROWS_BAG_REQUESTS_H_
