// TensorFlow CPU kernels of the embedding lookups.

#include "embedding/embedding_bags.h"
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

// kBags: Dlrm>EmbeddingBagLookup.
template <class R, class T, class Id, bool kBags>
class LookupKernel : public OpKernel {
 public:
  using Row = typename NativeElement<R>::Type;
  using Element = typename NativeElement<T>::Type;

  explicit LookupKernel(OpKernelConstruction* c) : OpKernel(c) {
    OP_REQUIRES(c, InstructionSetError()[0] == '\0', InvalidArgument(InstructionSetError()));
    if (kBags) OP_REQUIRES_OK(c, bag_attributes_.Read(c));
  }

  void Compute(OpKernelContext* c) override {
    tensorflow::core::RefCountPtr<tensorflow::Var> variable;
    OP_REQUIRES_OK(c, tensorflow::LookupResource(c, tensorflow::HandleFromInput(c, 0), &variable));
    tensorflow::tf_shared_lock lock(*variable->mu());
    OP_REQUIRES_OK(c, CheckVariable(*variable, tensorflow::DataTypeToEnum<R>::value, 2, "table"));
    const Tensor& table = *variable->tensor();
    const Tensor& ids = c->input(1);
    Tables tables;
    int64_t batch = 0;
    if constexpr (kBags) {
      OP_REQUIRES_OK(c, ReadBags(ids, c->input(2), c->input(3), c->input(4), table.dim_size(0),
                                 bag_attributes_, &tables, &batch));
      if (bag_attributes_.has_offsets()) {
        OP_REQUIRES_OK(c, CheckOffsets(c->input(2), ids.NumElements()));
      }
    } else {
      OP_REQUIRES_OK(c, ReadTables(ids, c->input(2), c->input(3), table.dim_size(0), &tables));
      batch = ids.dim_size(0);
    }
    const int64_t dimension = table.dim_size(1);
    Tensor* output = nullptr;
    const TensorShape shape({batch, static_cast<int64_t>(tables.base.size()), dimension});
    OP_REQUIRES_OK(c, c->allocate_output(0, shape, &output));
    if (output->NumElements() == 0 && ids.NumElements() == 0) return;
    huge_pages_.Advise(table);
    AdviseHugePages(output->tensor_data().data(), output->TotalBytes());
    Element* out = MutableElementsOf<Element>(*output);
    // An output that fits into the caches stays there for its next reader.
    constexpr size_t kCacheBytes = size_t{4} << 20;
    const bool stream = output->TotalBytes() > kCacheBytes &&
                        dimension * sizeof(Element) % 64 == 0 &&
                        reinterpret_cast<uintptr_t>(out) % 64 == 0;
    if constexpr (kBags) {
      OP_REQUIRES_OK(c, Pool(c, table, ids, tables,
                             BatchOfBags(ids, c->input(2), bag_attributes_, batch), stream, out));
    } else {
      OP_REQUIRES_OK(c, Gather(c, table, ids, tables, stream, out));
    }
  }

 private:
  Status Gather(OpKernelContext* c, const Tensor& table, const Tensor& ids, const Tables& tables,
                bool stream, Element* out) {
    const int64_t dimension = table.dim_size(1);
    RowFinder<Id> finder(ids, tables);
    const auto functions = EmbeddingFor<Row, Element>(CurrentInstructionSet());
    const Row* rows_of_table = ElementsOf<Row>(table);
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
    return finder.status();
  }

  Status Pool(OpKernelContext* c, const Tensor& table, const Tensor& ids, const Tables& tables,
              const BatchOfBags& bags, bool stream, Element* out) {
    const int64_t dimension = table.dim_size(1);
    BagRows<Id> finder(ids, tables, bags);
    const auto functions = EmbeddingFor<Row, Element>(CurrentInstructionSet());
    const Row* rows_of_table = ElementsOf<Row>(table);
    const auto& workers = *c->device()->tensorflow_cpu_worker_threads();
    const int64_t work = bags.ids() * (10 + dimension * sizeof(Row) / 4) +
                         bags.bags() * (10 + dimension * sizeof(Element) / 4);
    // Rows of a chunk: enough that the pause in prefetching between chunks is short.
    constexpr int64_t kRows = 4096, kMaxBags = 512;
    const int64_t chunk = std::max<int64_t>(
        1, std::min(kMaxBags, kRows * bags.bags() / std::max<int64_t>(1, bags.ids())));
    tensorflow::Shard(
        workers.num_threads, workers.workers, bags.units(), work / bags.units(),
        [&](int64_t begin, int64_t end) {
          std::vector<int64_t> rows;
          rows.reserve(2 * kRows);
          int32_t lengths[kMaxBags];
          float factors[kMaxBags];
          const int64_t last = bags.FirstBag(end);
          for (int64_t first = bags.FirstBag(begin); first < last; first += chunk) {
            const int64_t count = std::min(chunk, last - first);
            rows.clear();
            const bool good = finder.template Each<true>(
                first, first + count, [&](int64_t, int64_t row) { rows.push_back(row); },
                [&](int64_t bag, int64_t t, int64_t length) {
                  lengths[bag - first] = static_cast<int32_t>(length);
                  factors[bag - first] = bag_attributes_.FactorOf(t, length);
                });
            if (!good) return;
            functions.pool(
                rows_of_table, dimension,
                {rows.data(), static_cast<int64_t>(rows.size()), lengths, factors, count}, stream,
                out + first * dimension);
          }
        });
    return finder.status();
  }

  BagAttributes bag_attributes_;
  HugePages huge_pages_;
};

#define DLRM_REGISTER(R, T, Id)                               \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingLookup")        \
                              .Device(tensorflow::DEVICE_CPU) \
                              .TypeConstraint<R>("row_type")  \
                              .TypeConstraint<T>("dtype")     \
                              .TypeConstraint<Id>("Tids"),    \
                          LookupKernel<R, T, Id, false>);     \
  REGISTER_KERNEL_BUILDER(Name("Dlrm>EmbeddingBagLookup")     \
                              .Device(tensorflow::DEVICE_CPU) \
                              .TypeConstraint<R>("row_type")  \
                              .TypeConstraint<T>("dtype")     \
                              .TypeConstraint<Id>("Tids"),    \
                          LookupKernel<R, T, Id, true>);
DLRM_FOR_EMBEDDING_TYPES(DLRM_REGISTER)
#undef DLRM_REGISTER

}  // namespace
}  // namespace dlrm
