#include "embedding/embedding_tables.h"

#include <algorithm>
#include <numeric>
#include <string>

namespace dlrm {

using tensorflow::Tensor;

Status CheckVariable(const tensorflow::Var& variable, tensorflow::DataType dtype, int rank,
                     const char* name) {
  const Tensor& tensor = *const_cast<tensorflow::Var&>(variable).tensor();
  if (!tensor.IsInitialized()) {
    return FailedPrecondition("variable ", name, " is not initialised");
  }
  if (tensor.dtype() != dtype || tensor.dims() != rank) {
    return InvalidArgument("variable ", name, " must be ", tensorflow::DataTypeString(dtype),
                           " of rank ", rank, ", got ", tensorflow::DataTypeString(tensor.dtype()),
                           " of shape ", tensor.shape().DebugString());
  }
  return Status();
}

namespace {

// Checks base_rows and table_rows of `count` tables against a variable of `rows` rows.
Status ReadRanges(const Tensor& ids, const Tensor& base_rows, const Tensor& table_rows,
                  int64_t count, int64_t rows, Tables* tables) {
  if (base_rows.dims() != 1 || table_rows.dims() != 1 || base_rows.dim_size(0) != count ||
      table_rows.dim_size(0) != count) {
    return InvalidArgument("base_rows and table_rows must be [", count, "] for ids of shape ",
                           ids.shape().DebugString(), ", got ", base_rows.shape().DebugString(),
                           " and ", table_rows.shape().DebugString());
  }
  const auto base = base_rows.flat<int64_t>();
  const auto size = table_rows.flat<int64_t>();
  tables->base.assign(base.data(), base.data() + count);
  tables->count.assign(size.data(), size.data() + count);
  for (int64_t t = 0; t < count; ++t) {
    if (base(t) < 0 || size(t) < 0 || base(t) > rows || size(t) > rows - base(t)) {
      return InvalidArgument("table ", t, " with base row ", base(t), " and ", size(t),
                             " rows must be within the variable's ", rows, " rows");
    }
  }
  return Status();
}

}  // namespace

Status ReadTables(const Tensor& ids, const Tensor& base_rows, const Tensor& table_rows,
                  int64_t rows, Tables* tables) {
  if (ids.dims() != 2) {
    return InvalidArgument("ids must be [B, T], got shape ", ids.shape().DebugString());
  }
  return ReadRanges(ids, base_rows, table_rows, ids.dim_size(1), rows, tables);
}

Status BagAttributes::Read(tensorflow::OpKernelConstruction* c) {
  TF_RETURN_IF_ERROR(c->GetAttr("hotness", &hotness));
  TF_RETURN_IF_ERROR(c->GetAttr("mean", &mean));
  TF_RETURN_IF_ERROR(c->GetAttr("variable", &variable));
  if (mean.size() != hotness.size() || variable.size() != hotness.size()) {
    return InvalidArgument("hotness, mean and variable must have one length, got ", hotness.size(),
                           ", ", mean.size(), " and ", variable.size());
  }
  for (size_t t = 0; t < hotness.size(); ++t) {
    if (hotness[t] < 1) {
      return InvalidArgument("hotness of table ", t, " must be at least 1, got ", hotness[t]);
    }
  }
  return Status();
}

int64_t BagAttributes::slots() const {
  return std::accumulate(hotness.begin(), hotness.end(), int64_t{0});
}

Status ReadBatchOfBags(const Tensor& ids, const Tensor& offsets, const BagAttributes& bags,
                       int64_t* batch) {
  if (bags.has_offsets()) {
    if (ids.dims() != 1 || offsets.dims() != 1 || offsets.dim_size(0) < 1) {
      return InvalidArgument("ids and offsets must be [n] and [B + 1], got shapes ",
                             ids.shape().DebugString(), " and ", offsets.shape().DebugString());
    }
    *batch = offsets.dim_size(0) - 1;
    return Status();
  }
  if (ids.dims() != 2 || ids.dim_size(1) != bags.slots()) {
    return InvalidArgument("ids must be [B, ", bags.slots(), "], one column for each slot, got ",
                           ids.shape().DebugString());
  }
  if (offsets.NumElements() != 0) {
    return InvalidArgument("offsets must be empty for tables with a hotness, got shape ",
                           offsets.shape().DebugString());
  }
  *batch = ids.dim_size(0);
  return Status();
}

Status ReadBags(const Tensor& ids, const Tensor& offsets, const Tensor& base_rows,
                const Tensor& table_rows, int64_t rows, const BagAttributes& bags, Tables* tables,
                int64_t* batch) {
  TF_RETURN_IF_ERROR(ReadBatchOfBags(ids, offsets, bags, batch));
  return ReadRanges(ids, base_rows, table_rows, bags.tables(), rows, tables);
}

Status CheckOffsets(const Tensor& offsets, int64_t ids) {
  const int32_t* values = offsets.flat<int32_t>().data();
  const int64_t last = offsets.NumElements() - 1;
  int64_t bag = 0;
  while (bag < last && values[bag] <= values[bag + 1]) ++bag;
  if (bag == last && values[0] == 0 && values[last] == ids) return Status();
  return InvalidArgument(
      "offsets must rise from 0 to the number of ids, ", ids, "; found ", values[0],
      " at the start, ", values[last], " at the end",
      bag == last ? ""
                  : absl::StrCat(", ", values[bag], " before ", values[bag + 1], " at bag ", bag));
}

Status UpdateAttributes::Read(tensorflow::OpKernelConstruction* c) {
  std::string name;
  TF_RETURN_IF_ERROR(c->GetAttr("optimizer", &name));
  std::vector<float> values;
  TF_RETURN_IF_ERROR(c->GetAttr("hyperparameters", &values));
  int states = 0;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &states));
  for (optimizer = 0; optimizer < RowRules::kCount; ++optimizer) {
    if (name == FactsOfRowRule(optimizer).name) break;
  }
  if (optimizer == RowRules::kCount) return InvalidArgument("unknown row optimizer ", name);
  const RowRuleFacts& facts = FactsOfRowRule(optimizer);
  const int expected = facts.column_states + facts.row_states;
  if (states != expected || static_cast<int>(values.size()) != facts.hyperparameters) {
    return InvalidArgument(name, " takes ", expected, " states and ", facts.hyperparameters,
                           " hyper-parameters, got ", states, " and ", values.size());
  }
  std::copy(values.begin(), values.end(), hyperparameters);
  return Status();
}

Status UpdateInputs::Open(tensorflow::OpKernelContext* c, const UpdateAttributes& attributes,
                          tensorflow::DataType row_type, const BagAttributes* bags) {
  const RowRuleFacts& facts = FactsOfRowRule(attributes.optimizer);
  const int states = facts.column_states + facts.row_states;
  variables_.resize(1 + states);
  std::vector<decltype(variables_[0]->mu())> mutexes;
  for (int i = 0; i <= states; ++i) {
    TF_RETURN_IF_ERROR(
        tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, i), &variables_[i]));
    mutexes.push_back(variables_[i]->mu());
  }
  // In order of address, like every op that locks several variables.
  std::sort(mutexes.begin(), mutexes.end());
  if (std::adjacent_find(mutexes.begin(), mutexes.end()) != mutexes.end()) {
    return InvalidArgument("the table and the states of ", facts.name,
                           " must be different variables");
  }
  locks_.reserve(mutexes.size());
  for (auto* mutex : mutexes) locks_.emplace_back(*mutex);

  TF_RETURN_IF_ERROR(CheckVariable(*table(), row_type, 2, "table"));
  const Tensor& rows = *table()->tensor();
  for (int s = 0; s < states; ++s) {
    const bool of_columns = s < facts.column_states;
    const std::string name = absl::StrCat("state ", s, " of ", facts.name);
    TF_RETURN_IF_ERROR(
        CheckVariable(*state(s), tensorflow::DT_FLOAT, of_columns ? 2 : 1, name.c_str()));
    const Tensor& values = *state(s)->tensor();
    if (values.dim_size(0) != rows.dim_size(0) ||
        (of_columns && values.dim_size(1) != rows.dim_size(1))) {
      return InvalidArgument(name, " must be ", of_columns ? "[rows, D]" : "[rows]",
                             " of the table ", rows.shape().DebugString(), ", got ",
                             values.shape().DebugString());
    }
  }

  // (ids, gradients, base_rows, table_rows) or (ids, offsets, base_rows, table_rows, gradients),
  // then the scalars.
  const int first = 1 + states;
  const bool one_hot = bags == nullptr;
  ids_ = &c->input(first);
  offsets_ = one_hot ? nullptr : &c->input(first + 1);
  gradients_ = &c->input(one_hot ? first + 1 : first + 4);
  base_rows_ = &c->input(first + 2);
  table_rows_ = &c->input(first + 3);
  learning_rate_ = &c->input(one_hot ? first + 4 : first + 5);
  scale_ = &c->input(one_hot ? first + 5 : first + 6);
  int64_t batch = 0, tables = 0;
  if (one_hot) {
    if (ids_->dims() != 2) {
      return InvalidArgument("ids must be [B, T], got shape ", ids_->shape().DebugString());
    }
    batch = ids_->dim_size(0);
    tables = ids_->dim_size(1);
  } else {
    TF_RETURN_IF_ERROR(ReadBatchOfBags(*ids_, *offsets_, *bags, &batch));
    tables = bags->tables();
  }
  if (gradients_->dims() != 3 || gradients_->dim_size(0) != batch ||
      gradients_->dim_size(1) != tables || gradients_->dim_size(2) != rows.dim_size(1)) {
    return InvalidArgument("gradients must be [", batch, ", ", tables, ", ", rows.dim_size(1),
                           "] for ids ", ids_->shape().DebugString(), ", got ",
                           gradients_->shape().DebugString());
  }
  if (learning_rate_->dims() != 0 || scale_->dims() != 0) {
    return InvalidArgument("learning_rate and scale must be scalars, got shapes ",
                           learning_rate_->shape().DebugString(), " and ",
                           scale_->shape().DebugString());
  }
  return Status();
}

Status InitializeInputs::Open(tensorflow::OpKernelContext* c) {
  TF_RETURN_IF_ERROR(tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 0), &variable_));
  for (int i = 1; i < 8; ++i) {
    if (c->input(i).dims() != 0) {
      return InvalidArgument("input ", i, " must be a scalar, got shape ",
                             c->input(i).shape().DebugString());
    }
  }
  int64_t* const numbers[] = {&base_row, &rows, &table_index, &seed, &first_row, &row_stride};
  for (int i = 0; i < 6; ++i) *numbers[i] = c->input(i + 1).scalar<int64_t>()();
  limit = c->input(7).scalar<float>()();
  lock_.emplace(*variable_->mu());
  TF_RETURN_IF_ERROR(CheckVariable(*variable_, tensorflow::DT_FLOAT, 2, "table"));
  if (!table().RefCountIsOne()) {
    return FailedPrecondition(
        "a reader still holds the table's value: initialise the table before reading it");
  }
  const int64_t all_rows = table().dim_size(0);
  if (base_row < 0 || rows < 0 || base_row > all_rows || rows > all_rows - base_row) {
    return InvalidArgument("rows [", base_row, ", ", base_row, " + ", rows,
                           ") must be within the table's ", all_rows, " rows");
  }
  if (table_index < 0 || table_index > INT64_C(0xffffffff)) {
    return InvalidArgument("table_index must be in [0, 2^32), got ", table_index);
  }
  if (first_row < 0 || row_stride < 1) {
    return InvalidArgument("first_row must be at least 0 and row_stride at least 1, got ",
                           first_row, " and ", row_stride);
  }
  return Status();
}

void HugePages::Advise(const Tensor& tensor) {
  constexpr size_t kMinBytes = size_t{64} << 20;
  const void* data = tensor.tensor_data().data();
  if (tensor.TotalBytes() < kMinBytes || advised_.load(std::memory_order_relaxed) == data) return;
  AdviseHugePages(data, tensor.TotalBytes());
  advised_.store(data, std::memory_order_relaxed);
}

}  // namespace dlrm
