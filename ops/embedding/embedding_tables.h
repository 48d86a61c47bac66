// Shared by the embedding kernels: checked inputs, the tables in a variable, ids to rows.

#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_TABLES_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_TABLES_H_

#include <algorithm>
#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "cpu/huge_pages.h"
#include "cpu/tensor_elements.h"
#include "embedding/embedding_cpu.h"
#include "status.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"

namespace dlrm {

// The tables of one call: table t has rows [base[t], base[t] + count[t]) of the variable.
struct Tables {
  std::vector<int64_t> base;
  std::vector<int64_t> count;
};

// Calls MACRO(row type, vector or gradient type, id type) for each supported combination.
#define DLRM_FOR_EMBEDDING_TYPES(MACRO)       \
  MACRO(float, float, int32_t)                \
  MACRO(float, float, int64_t)                \
  MACRO(float, tensorflow::bfloat16, int32_t) \
  MACRO(float, tensorflow::bfloat16, int64_t) \
  MACRO(float, Eigen::half, int32_t)          \
  MACRO(float, Eigen::half, int64_t)

// Checks that `variable` is initialised and has the given type and rank.
Status CheckVariable(const tensorflow::Var& variable, tensorflow::DataType dtype, int rank,
                     const char* name);

// Checks ids [B, T], base_rows [T] and table_rows [T] against a variable of `rows` rows.
Status ReadTables(const tensorflow::Tensor& ids, const tensorflow::Tensor& base_rows,
                  const tensorflow::Tensor& table_rows, int64_t rows, Tables* tables);

// The attributes of a bag op. With offsets the lists are empty, and there is one table.
struct BagAttributes {
  std::vector<int64_t> hotness;      // slots of each table
  std::vector<bool> mean, variable;  // of each table: mean pooling; slots may be empty (kEmptySlot)

  Status Read(tensorflow::OpKernelConstruction* c);
  bool has_offsets() const { return hotness.empty(); }
  int64_t tables() const { return has_offsets() ? 1 : static_cast<int64_t>(hotness.size()); }
  int64_t slots() const;  // W, the sum of hotness
  // What a bag of table t with this many ids multiplies its sum, or the gradients of its ids, by.
  float FactorOf(int64_t t, int64_t ids) const {
    return !mean.empty() && mean[t] && ids > 0 ? 1.0f / static_cast<float>(ids) : 1.0f;
  }
  bool any_mean() const { return std::find(mean.begin(), mean.end(), true) != mean.end(); }
};

// The id of an empty slot in a table with variable slots.
constexpr int64_t kEmptySlot = -1;

// Checks the shapes of ids and offsets of a bag op; *batch = B.
Status ReadBatchOfBags(const tensorflow::Tensor& ids, const tensorflow::Tensor& offsets,
                       const BagAttributes& bags, int64_t* batch);

// The same, and checks base_rows [T] and table_rows [T] against a variable of `rows` rows.
Status ReadBags(const tensorflow::Tensor& ids, const tensorflow::Tensor& offsets,
                const tensorflow::Tensor& base_rows, const tensorflow::Tensor& table_rows,
                int64_t rows, const BagAttributes& bags, Tables* tables, int64_t* batch);

// Checks the values of `offsets`, in host memory: from 0 to `ids`, never falling.
Status CheckOffsets(const tensorflow::Tensor& offsets, int64_t ids);

// The error for an id out of bounds.
inline Status IdOutOfRange(int64_t table, int64_t sample, int64_t id, int64_t bound) {
  return InvalidArgument("id out of range: table ", table, ", sample ", sample, ": id ", id,
                         " is not in [0, ", bound, ")");
}

// Turns ids into rows of the variable and records the first id out of bounds. Thread-safe.
template <class Id>
class RowFinder {
 public:
  RowFinder(const tensorflow::Tensor& ids, const Tables& tables)
      : ids_(ids.flat<Id>().data()),
        tables_(tables),
        bad_(ids.NumElements()),
        count_(ids.NumElements()) {}

  // rows[k - begin] = the row of flat id k, for k in [begin, end). Returns false if an id is out of
  // bounds.
  bool Find(int64_t begin, int64_t end, int64_t* rows) {
    const int64_t tables = static_cast<int64_t>(tables_.base.size());
    int64_t t = begin % tables;
    bool good = true;
    for (int64_t k = begin; k < end; ++k) {
      const int64_t id = static_cast<int64_t>(ids_[k]);
      const bool inside = static_cast<uint64_t>(id) < static_cast<uint64_t>(tables_.count[t]);
      if (!inside) Report(k);
      good &= inside;
      rows[k - begin] = tables_.base[t] + id;
      if (++t == tables) t = 0;
    }
    return good;
  }

  // The error for the first id out of bounds, or OK.
  Status status() const {
    const int64_t k = bad_.load();
    if (k == count_) return Status();
    const int64_t tables = static_cast<int64_t>(tables_.base.size());
    return IdOutOfRange(k % tables, k / tables, static_cast<int64_t>(ids_[k]),
                        tables_.count[k % tables]);
  }

 private:
  void Report(int64_t k) {
    int64_t first = bad_.load();
    while (k < first && !bad_.compare_exchange_weak(first, k)) {
    }
  }

  const Id* ids_;
  const Tables& tables_;
  std::atomic<int64_t> bad_;  // first flat id out of bounds, or count_
  int64_t count_;
};

// The attributes of an update op.
struct UpdateAttributes {
  int optimizer = 0;  // index in RowRules
  float hyperparameters[kMaxHyperparameters] = {};

  Status Read(tensorflow::OpKernelConstruction* c);
};

// The largest variable that an update copies because a reader still holds its value. A second copy
// of a larger one could exhaust the memory in the middle of a step.
constexpr int64_t kMaxCopiedBytes = int64_t{1} << 30;

// Gives the variable a buffer of its own if a reader holds its value, which must not change:
// allocates one and calls copy(from, to), which returns a Status. `role` names the variable in the
// error for one of more than kMaxCopiedBytes.
template <class Copy>
Status OwnBuffer(tensorflow::OpKernelContext* c, tensorflow::Var* variable, const std::string& role,
                 const Copy& copy) {
  tensorflow::Tensor* tensor = variable->tensor();
  if (tensor->RefCountIsOne()) return Status();
  const int64_t bytes = static_cast<int64_t>(tensor->TotalBytes());
  if (bytes > kMaxCopiedBytes) {
    constexpr double kGiB = 1 << 30;
    return FailedPrecondition("embedding update: expected no other reader of the ", role, " (",
                              bytes / kGiB, " GiB), found one; a copy is only made up to ",
                              kMaxCopiedBytes / kGiB, " GiB");
  }
  tensorflow::Tensor own;
  TF_RETURN_IF_ERROR(c->allocate_temp(tensor->dtype(), tensor->shape(), &own));
  TF_RETURN_IF_ERROR(copy(*tensor, own));
  *tensor = own;
  return Status();
}

// The variables of one call of an update op, locked while this object lives, and its checked
// inputs: the table, the optimizer's states, ids, offsets (of a bag op), gradients, base_rows,
// table_rows, learning_rate and scale.
class UpdateInputs {
 public:
  // Looks up and locks the variables and checks all inputs except the values of ids and offsets and
  // the tables. `bags`: of a bag op, else null.
  Status Open(tensorflow::OpKernelContext* c, const UpdateAttributes& attributes,
              tensorflow::DataType row_type, const BagAttributes* bags = nullptr);

  tensorflow::Var* table() const { return variables_[0].get(); }
  tensorflow::Var* state(int index) const { return variables_[1 + index].get(); }
  int states() const { return static_cast<int>(variables_.size()) - 1; }
  const tensorflow::Tensor& ids() const { return *ids_; }
  const tensorflow::Tensor& offsets() const { return *offsets_; }  // of a bag op
  const tensorflow::Tensor& gradients() const { return *gradients_; }
  const tensorflow::Tensor& base_rows() const { return *base_rows_; }
  const tensorflow::Tensor& table_rows() const { return *table_rows_; }
  // Scalars, in the memory of the kernel's device.
  const tensorflow::Tensor& learning_rate() const { return *learning_rate_; }
  const tensorflow::Tensor& scale() const { return *scale_; }

 private:
  std::vector<tensorflow::core::RefCountPtr<tensorflow::Var>> variables_;
  std::vector<tensorflow::mutex_lock> locks_;  // destroyed, so unlocked, before variables_
  const tensorflow::Tensor *ids_, *offsets_, *gradients_, *base_rows_, *table_rows_;
  const tensorflow::Tensor *learning_rate_, *scale_;
};

// The variable of one call of the initialise op, locked while this object lives, and its checked
// inputs.
struct InitializeInputs {
  int64_t base_row, rows, table_index, seed, first_row, row_stride;
  float limit;

  Status Open(tensorflow::OpKernelContext* c);
  const tensorflow::Tensor& table() const { return *variable_->tensor(); }

 private:
  tensorflow::core::RefCountPtr<tensorflow::Var> variable_;
  std::optional<tensorflow::mutex_lock> lock_;  // destroyed, so unlocked, before variable_
};

// Advises huge pages for a large buffer; repeated calls for the same buffer do nothing.
class HugePages {
 public:
  void Advise(const tensorflow::Tensor& tensor);

 private:
  std::atomic<const void*> advised_{nullptr};
};

}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_TABLES_H_
