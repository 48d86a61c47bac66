// The embedding ops' inner loops as plain functions, one set for each instruction set.
//
// No TensorFlow header here, so that the kernels can be built and tested alone. Rows are numbered
// within the whole table variable and have been checked by the caller.

#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_CPU_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_CPU_H_

#include <stdint.h>

#include "cpu/element_types.h"
#include "cpu/instruction_set.h"

namespace dlrm {

// One gradient row and the table row that it goes to.
struct RowUpdate {
  int64_t row;
  int64_t gradient;  // row of the gradients, b * T + t
};

// Updates of one table row among others: first ones in order, each with a chain to its next.
struct UpdateChains {
  const RowUpdate* updates;
  const int64_t* next;   // of each update, the next one of the same row, or -1
  const int64_t* first;  // the first update of each row
  int64_t count;         // of rows
};

// Of the random generator: the seed's low and high word.
struct PhiloxKey {
  uint32_t low;
  uint32_t high;
};

struct AdagradStep {
  float learning_rate;
  float scale;
  float epsilon;
  bool row_wise;  // the accumulator has one element a row, not D
};

template <class T>
struct EmbeddingFunctions {
  // out[k] = table[rows[k]], k < count, converted to T. With `stream` the stores bypass the
  // caches; it asks that out and D elements of T be multiples of 64 bytes.
  void (*gather)(const float* table, int64_t dimension, const int64_t* rows, int64_t count,
                 bool stream, T* out);
  // table[row] -= step * gradient, one update after the other, rounded after the product and
  // after the difference.
  void (*sgd)(float* table, int64_t dimension, const RowUpdate* updates, int64_t count,
              const T* gradients, float step);
  // Adagrad with each chain's gradients summed first, in its order. `sum` holds RoundUp(D, 16)
  // floats.
  void (*adagrad)(float* table, float* accumulator, int64_t dimension, const UpdateChains& chains,
                  const T* gradients, const AdagradStep& step, float* sum);
};

// Writes the initial values of one row of a table; see philox.h.
using FillFunction = void (*)(PhiloxKey key, uint64_t row, uint32_t table_index, float limit,
                              int64_t dimension, float* out);

// The functions of one instruction set.
FillFunction FillFor(InstructionSet set);
template <class T>
EmbeddingFunctions<T> EmbeddingFor(InstructionSet set);

namespace portable {
FillFunction Fill();
template <class T>
EmbeddingFunctions<T> Embedding();
}
namespace avx2 {
FillFunction Fill();
template <class T>
EmbeddingFunctions<T> Embedding();
}
namespace avx512 {
FillFunction Fill();
template <class T>
EmbeddingFunctions<T> Embedding();
}

}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_CPU_H_
