// TensorFlow CPU kernel that initialises rows of a table in place.

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
    InitializeInputs inputs;
    OP_REQUIRES_OK(c, inputs.Open(c));
    const Tensor& table = inputs.table();
    AdviseHugePages(table.tensor_data().data(), table.TotalBytes());
    const PhiloxKey key{static_cast<uint32_t>(inputs.seed),
                        static_cast<uint32_t>(static_cast<uint64_t>(inputs.seed) >> 32)};
    const int64_t dimension = table.dim_size(1);
    float* out = MutableElementsOf<float>(table) + inputs.base_row * dimension;
    const FillFunction fill = FillFor(CurrentInstructionSet());
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(workers.num_threads, workers.workers, inputs.rows, 4 * dimension,
                      [&](int64_t begin, int64_t end) {
                        for (int64_t k = begin; k < end; ++k) {
                          fill(key, static_cast<uint64_t>(inputs.first_row + k * inputs.row_stride),
                               static_cast<uint32_t>(inputs.table_index), inputs.limit, dimension,
                               out + k * dimension);
                        }
                      });
  }
};

REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingInitialize").Device(tensorflow::DEVICE_CPU),
                        InitializeKernel);

}  // namespace
}  // namespace dlrm
