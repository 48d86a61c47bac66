#include "cpu/vector_avx2.h"
#include "embedding/embedding_rows.h"
#include "embedding/philox.h"

namespace dlrm {
namespace avx2 {

FillFunction Fill() { return FillRow; }

template <class Row, class T>
EmbeddingFunctions<Row, T> Embedding() {
  return FunctionsOf<Avx2Vector, Row, T>();
}

#define DLRM_INSTANTIATE(Row, T) template EmbeddingFunctions<Row, T> Embedding<Row, T>();
DLRM_FOR_EMBEDDING_ELEMENTS(DLRM_INSTANTIATE)
#undef DLRM_INSTANTIATE

}  // namespace avx2
}  // namespace dlrm
