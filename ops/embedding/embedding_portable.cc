#include "cpu/vector_portable.h"
#include "embedding/embedding_rows.h"
#include "embedding/philox.h"

namespace dlrm {
namespace portable {

FillFunction Fill() { return FillRow; }

template <class T>
EmbeddingFunctions<T> Embedding() {
  return FunctionsOf<PortableVector, T>();
}

template EmbeddingFunctions<float> Embedding<float>();
template EmbeddingFunctions<Bf16> Embedding<Bf16>();
template EmbeddingFunctions<Half> Embedding<Half>();

}  // namespace portable
}  // namespace dlrm
