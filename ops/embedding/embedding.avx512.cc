#include "cpu/vector_avx512.h"
#include "embedding/embedding_rows.h"
#include "embedding/philox.h"

namespace dlrm {
namespace avx512 {

FillFunction Fill() { return FillRow; }

template <class T>
EmbeddingFunctions<T> Embedding() {
  return FunctionsOf<Avx512Vector, T>();
}

template EmbeddingFunctions<float> Embedding<float>();
template EmbeddingFunctions<Bf16> Embedding<Bf16>();
template EmbeddingFunctions<Half> Embedding<Half>();

}  // namespace avx512
}  // namespace dlrm
