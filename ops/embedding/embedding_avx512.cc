#include "cpu/vector_avx512.h"
#include "embedding/embedding_rows.h"
#include "embedding/philox.h"

namespace dlrm {
namespace avx512 {

FillFunction Fill() { return FillRow; }

template <class Row, class T>
EmbeddingFunctions<Row, T> Embedding() {
  return FunctionsOf<Avx512Vector, Row, T>();
}

#define DLRM_INSTANTIATE(Row, T) template EmbeddingFunctions<Row, T> Embedding<Row, T>();
DLRM_FOR_EMBEDDING_ELEMENTS(DLRM_INSTANTIATE)
#undef DLRM_INSTANTIATE

}  // namespace avx512
}  // namespace dlrm
