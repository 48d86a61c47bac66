// What the embedding kernels for CPUs share: the variable, the tables in it, the checks of ids.

#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_TABLES_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_TABLES_H_

#include <atomic>
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

// Calls MACRO(type of rows, type of vectors or gradients, type of ids) for all that have kernels.
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

// Turns ids into rows of the variable and remembers the first id out of bounds; for many threads.
template <class Id>
class RowFinder {
 public:
  RowFinder(const tensorflow::Tensor& ids, const Tables& tables)
      : ids_(ids.flat<Id>().data()),
        tables_(tables),
        bad_(ids.NumElements()),
        count_(ids.NumElements()) {}

  // rows[k - begin] = the row of flat id k, for k in [begin, end). False if an id is out of bounds.
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

  // The error of the first id out of bounds, if there was one.
  Status status() const {
    const int64_t k = bad_.load();
    if (k == count_) return Status();
    const int64_t tables = static_cast<int64_t>(tables_.base.size());
    return InvalidArgument("id out of range: table ", k % tables, ", sample ", k / tables, ": id ",
                           static_cast<int64_t>(ids_[k]), " is not in [0, ",
                           tables_.count[k % tables], ")");
  }

 private:
  void Report(int64_t k) {
    int64_t known = bad_.load();
    while (k < known && !bad_.compare_exchange_weak(known, k)) {
    }
  }

  const Id* ids_;
  const Tables& tables_;
  std::atomic<int64_t> bad_;
  int64_t count_;
};

// The attributes of an update op.
struct UpdateAttributes {
  int optimizer = 0;  // number in RowRules
  float hyperparameters[kMaxHyperparameters] = {};

  // Reads and checks them.
  Status Read(tensorflow::OpKernelConstruction* c);
};

// The variables of one call of an update op, locked while this object lives, and its checked
// inputs. The op's inputs are the table, the optimizer's states, ids, gradients, base_rows,
// table_rows, learning_rate and scale.
class UpdateInputs {
 public:
  // Looks the variables up, locks them and checks all inputs except the values of the ids.
  Status Open(tensorflow::OpKernelContext* c, const UpdateAttributes& attributes,
              tensorflow::DataType row_type);

  tensorflow::Var* table() const { return variables_[0].get(); }
  tensorflow::Var* state(int index) const { return variables_[1 + index].get(); }
  int states() const { return static_cast<int>(variables_.size()) - 1; }
  const tensorflow::Tensor& ids() const { return *ids_; }
  const tensorflow::Tensor& gradients() const { return *gradients_; }
  const tensorflow::Tensor& base_rows() const { return *base_rows_; }
  const tensorflow::Tensor& table_rows() const { return *table_rows_; }
  const RowStep& step() const { return step_; }

 private:
  std::vector<tensorflow::core::RefCountPtr<tensorflow::Var>> variables_;
  std::vector<tensorflow::mutex_lock> locks_;  // unlocked before the variables are let go
  const tensorflow::Tensor *ids_, *gradients_, *base_rows_, *table_rows_;
  RowStep step_;
};

// Asks for huge pages behind a large buffer, once for each buffer that is seen.
class HugePages {
 public:
  void Advise(const tensorflow::Tensor& tensor);

 private:
  std::atomic<const void*> advised_{nullptr};
};

}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_TABLES_H_
