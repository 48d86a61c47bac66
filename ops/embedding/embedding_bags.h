// Walks the ids of a batch bag by bag, as rows of the variable.

#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_BAGS_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_BAGS_H_

#include <algorithm>
#include <vector>

#include "embedding/embedding_tables.h"

namespace dlrm {

// The ids of a batch as bags; bag b * T + t holds those of sample b for table t.
class BatchOfBags {
 public:
  // One id per sample and table: ids [B, T].
  BatchOfBags(const tensorflow::Tensor& ids, int64_t tables)
      : tables_(tables),
        ids_(ids.NumElements()),
        bags_(ids_),
        hotness_(tables, 1),
        first_slots_(tables),
        variable_(tables, false) {
    for (int64_t t = 0; t < tables; ++t) first_slots_[t] = t;
    slots_ = tables;
  }

  // Checked ids and offsets of a bag op with batch size `batch`.
  BatchOfBags(const tensorflow::Tensor& ids, const tensorflow::Tensor& offsets,
              const BagAttributes& attributes, int64_t batch)
      : tables_(attributes.tables()),
        ids_(ids.NumElements()),
        bags_(batch * tables_),
        slots_(attributes.slots()),
        offsets_(attributes.has_offsets() ? offsets.flat<int32_t>().data() : nullptr),
        hotness_(attributes.hotness),
        first_slots_(attributes.hotness.size()),
        variable_(attributes.variable.begin(), attributes.variable.end()) {
    for (size_t t = 1; t < hotness_.size(); ++t) {
      first_slots_[t] = first_slots_[t - 1] + hotness_[t - 1];
    }
  }

  int64_t tables() const { return tables_; }
  int64_t ids() const { return ids_; }    // empty slots included
  int64_t bags() const { return bags_; }  // B * T

  // The index of the first id of a bag, or the number of ids for bag = bags().
  int64_t FirstId(int64_t bag) const {
    if (offsets_ != nullptr) return offsets_[bag];
    return bag == bags_ ? ids_ : bag / tables_ * slots_ + first_slots_[bag % tables_];
  }

  // Cuts the bags into pieces of about equally many ids and bags: the first bag of a piece that
  // begins at this unit of work, 0 <= unit <= units().
  int64_t units() const { return offsets_ == nullptr ? bags_ : ids_ + bags_; }
  int64_t FirstBag(int64_t unit) const {
    if (offsets_ == nullptr) return unit;
    int64_t low = 0, high = bags_;  // bag b begins at unit offsets[b] + b
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (offsets_[middle] + middle < unit) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  // The bag that holds the id with this index.
  int64_t BagOf(int64_t id) const {
    if (offsets_ != nullptr) {
      return std::upper_bound(offsets_, offsets_ + bags_ + 1, static_cast<int32_t>(id)) - offsets_ -
             1;
    }
    const auto slot = std::upper_bound(first_slots_.begin(), first_slots_.end(), id % slots_);
    return id / slots_ * tables_ + (slot - first_slots_.begin() - 1);
  }

  // Calls bag(bag, t, index of its first id, its number of ids) for the bags [first, last).
  template <class Visit>
  void Each(int64_t first, int64_t last, const Visit& visit) const {
    if (first >= last) return;
    int64_t t = first % tables_, id = FirstId(first);
    for (int64_t bag = first; bag < last; ++bag) {
      const int64_t length = offsets_ == nullptr ? hotness_[t] : offsets_[bag + 1] - offsets_[bag];
      visit(bag, t, id, length);
      id += length;
      if (++t == tables_) t = 0;
    }
  }

  // Whether slots of table t may be empty.
  bool variable(int64_t t) const { return offsets_ == nullptr && variable_[t] != 0; }

 private:
  int64_t tables_, ids_, bags_, slots_ = 0;
  const int32_t* offsets_ = nullptr;  // [bags_ + 1]
  std::vector<int64_t> hotness_, first_slots_;
  std::vector<uint8_t> variable_;
};

// Turns the ids of bags into rows of the variable and records the first id out of bounds.
// Thread-safe.
template <class Id>
class BagRows {
 public:
  BagRows(const tensorflow::Tensor& ids, const Tables& tables, const BatchOfBags& bags)
      : ids_(ids.flat<Id>().data()), tables_(tables), bags_(bags), bad_(bags.ids()) {}

  // For the bags [first, last): calls row(bag, row) for each id, then end(bag, t, number of rows).
  // Returns false if an id is out of bounds. Without kCheck no id is, as an earlier call found.
  template <bool kCheck, class Row, class End>
  bool Each(int64_t first, int64_t last, const Row& row, const End& end) {
    bool good = true;
    bags_.Each(first, last, [&](int64_t bag, int64_t t, int64_t begin, int64_t length) {
      const int64_t base = tables_.base[t];
      const uint64_t bound = static_cast<uint64_t>(tables_.count[t]);
      const bool variable = bags_.variable(t);
      int64_t rows = 0;
      for (int64_t k = begin; k < begin + length; ++k) {
        const int64_t id = static_cast<int64_t>(ids_[k]);
        if (variable && id == kEmptySlot) continue;
        if (kCheck && static_cast<uint64_t>(id) >= bound) {
          Report(k);
          good = false;
          continue;
        }
        row(bag, base + id);
        ++rows;
      }
      end(bag, t, rows);
    });
    return good;
  }

  // The error for the first id out of bounds, or OK.
  Status status() const {
    const int64_t k = bad_.load();
    if (k == bags_.ids()) return Status();
    const int64_t bag = bags_.BagOf(k), t = bag % bags_.tables();
    return IdOutOfRange(t, bag / bags_.tables(), static_cast<int64_t>(ids_[k]), tables_.count[t]);
  }

 private:
  void Report(int64_t k) {
    int64_t first = bad_.load();
    while (k < first && !bad_.compare_exchange_weak(first, k)) {
    }
  }

  const Id* ids_;
  const Tables& tables_;
  const BatchOfBags& bags_;
  std::atomic<int64_t> bad_;  // the first id out of bounds, or the number of ids
};

}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_BAGS_H_
