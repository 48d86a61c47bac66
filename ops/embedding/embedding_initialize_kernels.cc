// TensorFlow's CPU kernel that fills rows of a table in place.

#include "embedding/embedding_tables.h"
#include "tensorflow/core/util/work_sharder.h"

namespace dlrm {

FillFunction FillFor(InstructionSet set) {
  switch (set) {
    case InstructionSet::kBf16:
    case InstructionSet::kAvx512:
#if defined(DLRM_HAVE_AVX512)
      return avx512::Fill();
#endif
    case InstructionSet::kAvx2:
#if defined(DLRM_HAVE_AVX2)
      return avx2::Fill();
#endif
    case InstructionSet::kPortable:
      break;
  }
  return portable::Fill();
}

namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class InitializeKernel : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* c) override {
    tensorflow::core::RefCountPtr<tensorflow::Var> variable;
    OP_REQUIRES_OK(c, tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 0), &variable));
    int64_t numbers[6];
    for (int i = 0; i < 6; ++i) {
      OP_REQUIRES(c, c->input(i + 1).dims() == 0,
                  InvalidArgument("input ", i + 1, " must be a scalar, got shape ",
                                  c->input(i + 1).shape().DebugString()));
      numbers[i] = c->input(i + 1).scalar<int64_t>()();
    }
    OP_REQUIRES(
        c, c->input(7).dims() == 0,
        InvalidArgument("limit must be a scalar, got shape ", c->input(7).shape().DebugString()));
    const int64_t base_row = numbers[0], rows = numbers[1], table_index = numbers[2],
                  seed = numbers[3], first_row = numbers[4], row_stride = numbers[5];
    const float limit = c->input(7).scalar<float>()();
    tensorflow::mutex_lock lock(*variable->mu());
    OP_REQUIRES_OK(c, CheckVariable(*variable, tensorflow::DT_FLOAT, 2, "table"));
    const Tensor& table = *variable->tensor();
    OP_REQUIRES(c, table.RefCountIsOne(),
                FailedPrecondition(
                    "the table's value is held by a reader: initialise it before it is read"));
    OP_REQUIRES(c,
                base_row >= 0 && rows >= 0 && base_row <= table.dim_size(0) &&
                    rows <= table.dim_size(0) - base_row,
                InvalidArgument("rows [", base_row, ", ", base_row, " + ", rows,
                                ") do not lie within the table's ", table.dim_size(0), " rows"));
    OP_REQUIRES(c, table_index >= 0 && table_index <= INT64_C(0xffffffff),
                InvalidArgument("table_index must be in [0, 2^32), got ", table_index));
    OP_REQUIRES(c, first_row >= 0 && row_stride >= 1,
                InvalidArgument("first_row must be at least 0 and row_stride at least 1, got ",
                                first_row, " and ", row_stride));
    AdviseHugePages(table.tensor_data().data(), table.TotalBytes());
    const PhiloxKey key{static_cast<uint32_t>(seed),
                        static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32)};
    const int64_t dimension = table.dim_size(1);
    float* out = MutableElementsOf<float>(table) + base_row * dimension;
    const FillFunction fill = FillFor(CurrentInstructionSet());
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(
        workers.num_threads, workers.workers, rows, 4 * dimension, [&](int64_t begin, int64_t end) {
          for (int64_t k = begin; k < end; ++k) {
            fill(key, static_cast<uint64_t>(first_row + k * row_stride),
                 static_cast<uint32_t>(table_index), limit, dimension, out + k * dimension);
          }
        });
  }
};

REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingInitialize").Device(tensorflow::DEVICE_CPU),
                        InitializeKernel);

}  // namespace
}  // namespace dlrm
