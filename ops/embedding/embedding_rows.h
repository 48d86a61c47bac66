// The embedding ops' inner loops for any vector type V (see cpu/vector_portable.h).
//
// Rows of a large table are in no cache and in no order that hardware can predict: each is
// prefetched some rows ahead.
//
// Each file that includes this has its own copy (unnamed namespace), compiled with its flags.

#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_ROWS_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_ROWS_H_

#include "embedding/embedding_cpu.h"

namespace dlrm {
namespace {

// Rows to prefetch ahead. At 512 bytes a row this is about the number of cache lines that a core
// can have in flight; more would evict lines that are still needed.
constexpr int64_t kRowsAhead = 12;

template <int kWrite>
void PrefetchRow(const void* row, int64_t bytes) {
  const char* p = static_cast<const char*>(row);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, kWrite, 3);
}

template <class V, class Row, class T>
void Gather(const Row* table, int64_t dimension, const int64_t* rows, int64_t count, bool stream,
            T* out) {
  const int64_t full = dimension / V::kFloats * V::kFloats, rest = dimension - full;
  const int64_t row_bytes = dimension * sizeof(Row);
  const int64_t first = count < kRowsAhead ? count : kRowsAhead;
  for (int64_t k = 0; k < first; ++k) PrefetchRow<0>(table + rows[k] * dimension, row_bytes);
  for (int64_t k = 0; k < count; ++k, out += dimension) {
    if (k + kRowsAhead < count) {
      PrefetchRow<0>(table + rows[k + kRowsAhead] * dimension, row_bytes);
    }
    const Row* row = table + rows[k] * dimension;
    if (stream) {
      for (int64_t c = 0; c < full; c += V::kFloats) V::Stream(out + c, V::Load(row + c));
    } else {
      for (int64_t c = 0; c < full; c += V::kFloats) V::Store(out + c, V::Load(row + c));
    }
    if (rest != 0) V::StoreFirst(out + full, V::LoadFirst(row + full, rest), rest);
  }
  if (stream) V::Fence();
}

// The first up to kFloats elements of the rest of a row.
template <class V, class T>
typename V::Register LoadPart(const T* p, int64_t left) {
  return left >= V::kFloats ? V::Load(p) : V::LoadFirst(p, left);
}
template <class V, class T>
void StorePart(T* p, typename V::Register r, int64_t left) {
  if (left >= V::kFloats) {
    V::Store(p, r);
  } else {
    V::StoreFirst(p, r, left);
  }
}

// Applies a rule to each gradient in turn.
template <class V, class Row, class T, class Rule>
void UpdateInOrder(const RowsAndStates<Row>& table, const UpdateChains& chains, const T* gradients,
                   const RowStep& step) {
  static_assert(Rule::kColumnStates == 0 && Rule::kRowStates == 0, "rules in order have no state");
  const Rule rule(step);
  const int64_t dimension = table.dimension, count = chains.update_count;
  const int64_t full = dimension / V::kFloats * V::kFloats, rest = dimension - full;
  const int64_t row_bytes = dimension * sizeof(Row), gradient_bytes = dimension * sizeof(T);
  // Vector stores may alias anything: locals keep the loop's pointers in registers.
  Row* const rows = table.rows;
  const RowUpdate* const updates = chains.updates;
  const typename V::Register none = V::Zero();
  for (int64_t k = 0; k < count && k < kRowsAhead; ++k) {
    PrefetchRow<1>(rows + updates[k].row * dimension, row_bytes);
  }
  for (int64_t k = 0; k < count; ++k) {
    if (k + kRowsAhead < count) {
      const RowUpdate& ahead = updates[k + kRowsAhead];
      PrefetchRow<1>(rows + ahead.row * dimension, row_bytes);
      PrefetchRow<0>(gradients + ahead.gradient * dimension, gradient_bytes);
    }
    Row* row = rows + updates[k].row * dimension;
    const T* gradient = gradients + updates[k].gradient * dimension;
    for (int64_t c = 0; c < full; c += V::kFloats) {
      V::Store(row + c, rule.Apply(V::Load(row + c), V::Load(gradient + c), nullptr, none));
    }
    if (rest != 0) {
      const typename V::Register changed = rule.Apply(
          V::LoadFirst(row + full, rest), V::LoadFirst(gradient + full, rest), nullptr, none);
      V::StoreFirst(row + full, changed, rest);
    }
  }
}

// sum[0 .. D) = scale * the sum of the chain's gradients, in chain order. With kSquares returns the
// sum of its squares, else 0.
template <bool kSquares, class V, class T>
float SumChain(const UpdateChains& chains, int64_t update, int64_t dimension, const T* gradients,
               float scale, float* sum) {
  const typename V::Register scales = V::Broadcast(scale);
  typename V::Register squares = V::Zero();
  for (int64_t c = 0; c < dimension; c += V::kFloats) {
    const int64_t left = dimension - c;
    typename V::Register total = V::Zero();
    for (int64_t k = update; k >= 0; k = chains.next[k]) {
      const T* gradient = gradients + chains.updates[k].gradient * dimension;
      total = V::Add(total, LoadPart<V>(gradient + c, left));
    }
    total = V::Multiply(total, scales);
    if constexpr (kSquares) squares = V::Add(squares, V::Multiply(total, total));
    V::Store(sum + c, total);
  }
  if constexpr (!kSquares) return 0;
  float parts[V::kFloats];
  V::Store(parts, squares);
  float square = 0;
  for (float part : parts) square += part;
  return square;
}

// Applies a rule once to each row, with the sum of its gradients.
template <class V, class Row, class T, class Rule>
void UpdateSummed(const RowsAndStates<Row>& table, const UpdateChains& chains, const T* gradients,
                  const RowStep& step, float* sum) {
  using Register = typename V::Register;
  constexpr int kColumnStates = Rule::kColumnStates, kRowStates = Rule::kRowStates;
  const Rule rule(step);
  const int64_t dimension = table.dimension;
  const int64_t row_bytes = dimension * sizeof(Row), gradient_bytes = dimension * sizeof(T);
  for (int64_t k = 0; k < chains.row_count; ++k) {
    if (k + kRowsAhead / 2 < chains.row_count) {
      const RowUpdate& ahead = chains.updates[chains.first[k + kRowsAhead / 2]];
      PrefetchRow<1>(table.rows + ahead.row * dimension, row_bytes);
      PrefetchRow<0>(gradients + ahead.gradient * dimension, gradient_bytes);
      for (int s = 0; s < kColumnStates; ++s) {
        PrefetchRow<1>(table.states[s] + ahead.row * dimension, dimension * sizeof(float));
      }
      for (int s = kColumnStates; s < kColumnStates + kRowStates; ++s) {
        __builtin_prefetch(table.states[s] + ahead.row, 1, 3);
      }
    }
    const int64_t update = chains.first[k];
    const int64_t row_number = chains.updates[update].row;
    Row* row = table.rows + row_number * dimension;
    const float square =
        SumChain<(kRowStates > 0), V>(chains, update, dimension, gradients, step.scale, sum);
    Register factor = V::Zero();
    if constexpr (kRowStates > 0) {
      float values[kRowStates];
      for (int s = 0; s < kRowStates; ++s) values[s] = table.states[kColumnStates + s][row_number];
      factor = V::Broadcast(rule.BeginRow(square / static_cast<float>(dimension), values));
      for (int s = 0; s < kRowStates; ++s) table.states[kColumnStates + s][row_number] = values[s];
    }
    for (int64_t c = 0; c < dimension; c += V::kFloats) {
      const int64_t left = dimension - c, place = row_number * dimension + c;
      Register values[kColumnStates + 1];  // + 1: an array of size 0 is not allowed
      for (int s = 0; s < kColumnStates; ++s)
        values[s] = LoadPart<V>(table.states[s] + place, left);
      const Register changed =
          rule.Apply(LoadPart<V>(row + c, left), V::Load(sum + c), values, factor);
      for (int s = 0; s < kColumnStates; ++s)
        StorePart<V>(table.states[s] + place, values[s], left);
      StorePart<V>(row + c, changed, left);
    }
  }
}

template <class V, class Row, class T, class Rule>
void Update(const RowsAndStates<Row>& table, const UpdateChains& chains, const T* gradients,
            const RowStep& step, float* sum) {
  if constexpr (Rule::kInOrder) {
    UpdateInOrder<V, Row, T, Rule>(table, chains, gradients, step);
  } else {
    UpdateSummed<V, Row, T, Rule>(table, chains, gradients, step, sum);
  }
}

template <class V, class Row, class T, template <class> class... Rules>
EmbeddingFunctions<Row, T> FunctionsWith(RowRuleList<Rules...>) {
  return {Gather<V, Row, T>, {Update<V, Row, T, Rules<V>>...}};
}

template <class V, class Row, class T>
EmbeddingFunctions<Row, T> FunctionsOf() {
  return FunctionsWith<V, Row, T>(RowRules{});
}

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_ROWS_H_
