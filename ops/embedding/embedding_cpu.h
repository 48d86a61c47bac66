// Inner loops of the embedding ops as plain functions, one set per instruction set.
//
// Includes no TensorFlow header, so that the kernels can be built and tested alone. Row numbers
// refer to the complete table variable; the caller has checked them.

#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_CPU_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_CPU_H_

#include <stdint.h>

#include "cpu/element_types.h"
#include "cpu/instruction_set.h"
#include "embedding/row_optimizers.h"

namespace dlrm {

// The gradient of one bag and a table row that it updates. 8 bytes, as there is one for each id.
struct RowUpdate {
  uint32_t row;
  uint32_t gradient;  // row of the gradients, b * T + t
};

// No update: the end of a chain.
constexpr uint32_t kNoUpdate = 0xffffffffu;

// The updates of one shard, in batch order. For rules that are applied once per row, the updates of
// each row are also linked: `first` is a row's first update, `next` the following one of its row.
struct UpdateChains {
  const RowUpdate* updates;
  int64_t update_count;
  const float* factors;   // of each row of the gradients; null: 1
  const uint32_t* next;   // [update_count], kNoUpdate at the end of a row's chain
  const uint32_t* first;  // [row_count]
  int64_t row_count;
};

// Floats of the sum of a row's gradients: D, rounded up to a multiple of a register.
constexpr int64_t SumFloats(int64_t dimension) { return (dimension + 15) / 16 * 16; }

// Bags of rows. The rows of all bags follow one another in `rows`.
struct RowBags {
  const int64_t* rows;
  int64_t row_count;
  const int32_t* lengths;  // rows of each bag
  const float* factors;    // of each bag's sum
  int64_t bag_count;
};

// Key of the random generator: the low and high word of the seed.
struct PhiloxKey {
  uint32_t low;
  uint32_t high;
};

// For rows of type Row, and vectors and gradients of type T.
template <class Row, class T>
struct EmbeddingFunctions {
  // out[k] = table[rows[k]], k < count, converted to T. With `stream` stores bypass the caches;
  // `out` and D elements of T must then be multiples of 64 bytes.
  void (*gather)(const Row* table, int64_t dimension, const int64_t* rows, int64_t count,
                 bool stream, T* out);
  // out[k] = the float32 sum of the rows of bag k, in order, times its factor, converted to T;
  // zeros for an empty bag. `stream` as for `gather`.
  void (*pool)(const Row* table, int64_t dimension, const RowBags& bags, bool stream, T* out);
  // One function per optimizer of RowRules: applies it to the rows of `chains`, which are linked
  // unless the rule is applied in order. Gradients are multiplied by their factors in float32 and
  // added in the order of their chain. `sum` is scratch of SumFloats(D) floats.
  void (*update[RowRules::kCount])(const RowsAndStates<Row>& table, const UpdateChains& chains,
                                   const T* gradients, const RowStep& step, float* sum);
};

// Calls MACRO(row type, vector or gradient type) for each supported combination.
#define DLRM_FOR_EMBEDDING_ELEMENTS(MACRO) \
  MACRO(float, float)                      \
  MACRO(float, Bf16)                       \
  MACRO(float, Half)

// Constants of the optimizer with that index in RowRules.
const RowRuleFacts& FactsOfRowRule(int optimizer);

// Writes the initial values of one row of a table; see philox.h.
using FillFunction = void (*)(PhiloxKey key, uint64_t row, uint32_t table_index, float limit,
                              int64_t dimension, float* out);

// The functions of one instruction set.
FillFunction FillFor(InstructionSet set);
template <class Row, class T>
EmbeddingFunctions<Row, T> EmbeddingFor(InstructionSet set);

namespace portable {
FillFunction Fill();
template <class Row, class T>
EmbeddingFunctions<Row, T> Embedding();
}  // namespace portable
namespace avx2 {
FillFunction Fill();
template <class Row, class T>
EmbeddingFunctions<Row, T> Embedding();
}  // namespace avx2
namespace avx512 {
FillFunction Fill();
template <class Row, class T>
EmbeddingFunctions<Row, T> Embedding();
}  // namespace avx512

}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_CPU_H_
