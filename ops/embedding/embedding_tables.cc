#include "embedding/embedding_tables.h"

namespace dlrm {

using tensorflow::Status;
using tensorflow::Tensor;
using tensorflow::errors::InvalidArgument;

Status CheckVariable(const tensorflow::Var& variable, int rank, const char* name) {
  const Tensor& tensor = *const_cast<tensorflow::Var&>(variable).tensor();
  if (!tensor.IsInitialized()) {
    return tensorflow::errors::FailedPrecondition("variable ", name, " is not initialised");
  }
  if (tensor.dtype() != tensorflow::DT_FLOAT || tensor.dims() != rank) {
    return InvalidArgument("variable ", name, " must be float32 of rank ", rank, ", got ",
                           tensorflow::DataTypeString(tensor.dtype()), " of shape ",
                           tensor.shape().DebugString());
  }
  return Status();
}

Status ReadTables(const Tensor& ids, const Tensor& base_rows, const Tensor& table_rows,
                  int64_t rows, Tables* tables) {
  if (ids.dims() != 2) {
    return InvalidArgument("ids must be [B, T], got shape ", ids.shape().DebugString());
  }
  const int64_t count = ids.dim_size(1);
  if (base_rows.dims() != 1 || table_rows.dims() != 1 || base_rows.dim_size(0) != count ||
      table_rows.dim_size(0) != count) {
    return InvalidArgument("base_rows and table_rows must be [", count, "] for ids of shape ",
                           ids.shape().DebugString(), ", got ", base_rows.shape().DebugString(),
                           " and ", table_rows.shape().DebugString());
  }
  const auto base = base_rows.flat<tensorflow::int64>();
  const auto size = table_rows.flat<tensorflow::int64>();
  tables->base.assign(base.data(), base.data() + count);
  tables->count.assign(size.data(), size.data() + count);
  for (int64_t t = 0; t < count; ++t) {
    if (base(t) < 0 || size(t) < 0 || base(t) > rows || size(t) > rows - base(t)) {
      return InvalidArgument("table ", t, " with base row ", base(t), " and ", size(t),
                             " rows does not lie within the variable's ", rows, " rows");
    }
  }
  return Status();
}

void HugePages::Advise(const Tensor& tensor) {
  constexpr size_t kWorthIt = size_t{64} << 20;
  const void* data = tensor.tensor_data().data();
  if (tensor.TotalBytes() < kWorthIt || advised_.load(std::memory_order_relaxed) == data) return;
  AdviseHugePages(data, tensor.TotalBytes());
  advised_.store(data, std::memory_order_relaxed);
}

}  // namespace dlrm
