#include "cpu/vector_portable.h"
#include "embedding/embedding_rows.h"

namespace dlrm {
namespace portable {

template <class T>
EmbeddingFunctions<T> Embedding() {
  return FunctionsOf<PortableVector, T>();
}

template EmbeddingFunctions<float> Embedding<float>();
template EmbeddingFunctions<Bf16> Embedding<Bf16>();
template EmbeddingFunctions<Half> Embedding<Half>();

}  // namespace portable
}  // namespace dlrm
