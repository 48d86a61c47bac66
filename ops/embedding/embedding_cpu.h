// The embedding ops' inner loops as plain functions, one set for each instruction set.
//
// No TensorFlow header here, so that the kernels can be built and tested alone. Rows are numbered
// within the whole table variable and have been checked by the caller.

#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_CPU_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_CPU_H_

#include <stdint.h>

#include "cpu/element_types.h"
#include "cpu/instruction_set.h"
#include "embedding/row_optimizers.h"

namespace dlrm {

// One gradient row and the table row that it goes to.
struct RowUpdate {
  int64_t row;
  int64_t gradient;  // row of the gradients, b * T + t
};

// The updates of one shard, in the order of the batch. Where a rule is applied once per row, each
// row's updates are also linked: its first one, and from each to the next of the same row.
struct UpdateChains {
  const RowUpdate* updates;
  int64_t update_count;
  const int64_t* next;   // of each update, the next one of the same row, or -1
  const int64_t* first;  // the first update of each row
  int64_t row_count;
};

// Of the random generator: the seed's low and high word.
struct PhiloxKey {
  uint32_t low;
  uint32_t high;
};

// For rows of type Row, and vectors and gradients of type T.
template <class Row, class T>
struct EmbeddingFunctions {
  // out[k] = table[rows[k]], k < count, converted to T. With `stream` the stores bypass the
  // caches; it asks that out and D elements of T be multiples of 64 bytes.
  void (*gather)(const Row* table, int64_t dimension, const int64_t* rows, int64_t count,
                 bool stream, T* out);
  // Applies each optimizer of RowRules to the rows of `chains`, which are linked unless the rule is
  // applied in order. Gradients are added in the order of their chain. `sum` holds RoundUp(D, 16)
  // floats.
  void (*update[RowRules::kCount])(const RowsAndStates<Row>& table, const UpdateChains& chains,
                                   const T* gradients, const RowStep& step, float* sum);
};

// Calls MACRO(type of rows, type of vectors or gradients) for all that have functions.
#define DLRM_FOR_EMBEDDING_ELEMENTS(MACRO) \
  MACRO(float, float)                      \
  MACRO(float, Bf16)                       \
  MACRO(float, Half)

// The facts of the optimizer of that number in RowRules.
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
