// TensorFlow CPU kernel of the embedding lookup.

#include "embedding/embedding_tables.h"
#include "tensorflow/core/util/work_sharder.h"

namespace dlrm {

template <class Row, class T>
EmbeddingFunctions<Row, T> EmbeddingFor(InstructionSet set) {
  switch (set) {
    case InstructionSet::kBf16:
    case InstructionSet::kAvx512:
#if defined(DLRM_HAVE_AVX512)
      return avx512::Embedding<Row, T>();
#endif
    case InstructionSet::kAvx2:
#if defined(DLRM_HAVE_AVX2)
      return avx2::Embedding<Row, T>();
#endif
    case InstructionSet::kPortable:
      break;
  }
  return portable::Embedding<Row, T>();
}

#define DLRM_INSTANTIATE(Row, T) \
  template EmbeddingFunctions<Row, T> EmbeddingFor<Row, T>(InstructionSet);
DLRM_FOR_EMBEDDING_ELEMENTS(DLRM_INSTANTIATE)
#undef DLRM_INSTANTIATE

namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

template <class R, class T, class Id>
class LookupKernel : public OpKernel {
 public:
  using Row = typename NativeElement<R>::Type;
  using Element = typename NativeElement<T>::Type;

  explicit LookupKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES(c, InstructionSetError()[0] == '\0', InvalidArgument(InstructionSetError()));
  }

  void Compute(OpKernelContext* c) override {
    tensorflow::core::RefCountPtr<tensorflow::Var> variable;
    OP_REQUIRES_OK(c, tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 0), &variable));
    tensorflow::tf_shared_lock lock(*variable->mu());
    OP_REQUIRES_OK(c, CheckVariable(*variable, tensorflow::DataTypeToEnum<R>::value, 2, "table"));
    const Tensor& table = *variable->tensor();
    const Tensor& ids = c->input(1);
    Tables tables;
    OP_REQUIRES_OK(c, ReadTables(ids, c->input(2), c->input(3), table.dim_size(0), &tables));
    const int64_t dimension = table.dim_size(1);
    Tensor* output = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(
                          0, TensorShape({ids.dim_size(0), ids.dim_size(1), dimension}), &output));
    if (ids.NumElements() == 0) return;
    huge_pages_.Advise(table);
    AdviseHugePages(output->tensor_data().data(), output->TotalBytes());
    RowFinder<Id> finder(ids, tables);
    const auto functions = EmbeddingFor<Row, Element>(CurrentInstructionSet());
    const Row* rows_of_table = ElementsOf<Row>(table);
    Element* out = MutableElementsOf<Element>(*output);
    // An output that fits into the caches stays there for its next reader.
    constexpr size_t kCacheBytes = size_t{4} << 20;
    const bool stream = output->TotalBytes() > kCacheBytes &&
                        dimension * sizeof(Element) % 64 == 0 &&
                        reinterpret_cast<uintptr_t>(out) % 64 == 0;
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    const int64_t cycles = 20 + dimension * (sizeof(Row) + sizeof(Element)) / 4;
    tensorflow::Shard(workers.num_threads, workers.workers, ids.NumElements(), cycles,
                      [&](int64_t begin, int64_t end) {
                        constexpr int64_t kChunk = 512;
                        int64_t rows[kChunk];
                        for (; begin < end; begin += kChunk) {
                          const int64_t count = std::min(kChunk, end - begin);
                          if (!finder.Find(begin, begin + count, rows)) return;
                          functions.gather(rows_of_table, dimension, rows, count, stream,
                                           out + begin * dimension);
                        }
                      });
    OP_REQUIRES_OK(c, finder.status());
  }

 private:
  HugePages huge_pages_;
};

#define DLRM_REGISTER(R, T, Id)                               \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingLookup")        \
                              .Device(tensorflow::DEVICE_CPU) \
                              .TypeConstraint<R>("row_type")  \
                              .TypeConstraint<T>("dtype")     \
                              .TypeConstraint<Id>("Tids"),    \
                          LookupKernel<R, T, Id>);
DLRM_FOR_EMBEDDING_TYPES(DLRM_REGISTER)
#undef DLRM_REGISTER

}  // namespace
}  // namespace dlrm
