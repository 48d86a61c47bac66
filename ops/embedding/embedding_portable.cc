#include "cpu/vector_portable.h"
#include "embedding/embedding_rows.h"
#include "embedding/philox.h"

namespace dlrm {
namespace portable {

FillFunction Fill() { return FillRow; }

template <class Row, class T>
EmbeddingFunctions<Row, T> Embedding() {
  return FunctionsOf<PortableVector, Row, T>();
}

#define DLRM_INSTANTIATE(Row, T) template EmbeddingFunctions<Row, T> Embedding<Row, T>();
DLRM_FOR_EMBEDDING_ELEMENTS(DLRM_INSTANTIATE)
#undef DLRM_INSTANTIATE

}  // namespace portable

const RowRuleFacts& FactsOfRowRule(int optimizer) {
  static const struct All {
    All() { RowRules::Facts<PortableVector>(facts); }
    RowRuleFacts facts[RowRules::kCount];
  } all;
  return all.facts[optimizer];
}

}  // namespace dlrm
