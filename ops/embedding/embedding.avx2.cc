#include "cpu/vector_avx2.h"
#include "embedding/embedding_rows.h"
#include "embedding/philox.h"

namespace dlrm {
namespace avx2 {

FillFunction Fill() { return FillRow; }

template <class T>
EmbeddingFunctions<T> Embedding() {
  return FunctionsOf<Avx2Vector, T>();
}

template EmbeddingFunctions<float> Embedding<float>();
template EmbeddingFunctions<Bf16> Embedding<Bf16>();
template EmbeddingFunctions<Half> Embedding<Half>();

}  // namespace avx2
}  // namespace dlrm
