// The embedding ops' inner loops for any vector type V (see cpu/vector_portable.h).
//
// The rows of a table of gigabytes are in no cache and in no order that hardware could foresee:
// each is asked for some rows before it is needed.
//
// Each file that includes this has its own copy (unnamed namespace), compiled with its flags.

#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_ROWS_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_ROWS_H_

#include "embedding/embedding_cpu.h"

namespace dlrm {
namespace {

// Rows asked for ahead. At 512 bytes a row this is about as many cache lines as a core can have
// under way; more only evicts what is still needed.
constexpr int64_t kRowsAhead = 12;

template <int kWrite>
void PrefetchRow(const void* row, int64_t bytes) {
  const char* p = static_cast<const char*>(row);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, kWrite, 3);
}

template <class V, class T>
void Gather(const float* table, int64_t dimension, const int64_t* rows, int64_t count,
            bool stream, T* out) {
  const int64_t whole = dimension / V::kFloats * V::kFloats, rest = dimension - whole;
  const int64_t row_bytes = dimension * sizeof(float);
  const int64_t first = count < kRowsAhead ? count : kRowsAhead;
  for (int64_t k = 0; k < first; ++k) PrefetchRow<0>(table + rows[k] * dimension, row_bytes);
  for (int64_t k = 0; k < count; ++k, out += dimension) {
    if (k + kRowsAhead < count) {
      PrefetchRow<0>(table + rows[k + kRowsAhead] * dimension, row_bytes);
    }
    const float* row = table + rows[k] * dimension;
    if (stream) {
      for (int64_t c = 0; c < whole; c += V::kFloats) V::Stream(out + c, V::Load(row + c));
    } else {
      for (int64_t c = 0; c < whole; c += V::kFloats) V::Store(out + c, V::Load(row + c));
    }
    if (rest != 0) V::StoreFirst(out + whole, V::LoadFirst(row + whole, rest), rest);
  }
  if (stream) V::Fence();
}

template <class V, class T>
void Sgd(float* table, int64_t dimension, const RowUpdate* updates, int64_t count,
         const T* gradients, float step) {
  const int64_t whole = dimension / V::kFloats * V::kFloats, rest = dimension - whole;
  const int64_t row_bytes = dimension * sizeof(float), gradient_bytes = dimension * sizeof(T);
  const typename V::Register steps = V::Broadcast(step);
  for (int64_t k = 0; k < count && k < kRowsAhead; ++k) {
    PrefetchRow<1>(table + updates[k].row * dimension, row_bytes);
  }
  for (int64_t k = 0; k < count; ++k) {
    if (k + kRowsAhead < count) {
      const RowUpdate& ahead = updates[k + kRowsAhead];
      PrefetchRow<1>(table + ahead.row * dimension, row_bytes);
      PrefetchRow<0>(gradients + ahead.gradient * dimension, gradient_bytes);
    }
    float* row = table + updates[k].row * dimension;
    const T* gradient = gradients + updates[k].gradient * dimension;
    for (int64_t c = 0; c < whole; c += V::kFloats) {
      const typename V::Register change = V::Multiply(steps, V::Load(gradient + c));
      V::Store(row + c, V::Subtract(V::Load(row + c), change));
    }
    if (rest != 0) {
      const typename V::Register change =
          V::Multiply(steps, V::LoadFirst(gradient + whole, rest));
      V::StoreFirst(row + whole, V::Subtract(V::LoadFirst(row + whole, rest), change), rest);
    }
  }
}

// The first up to kFloats elements of the rest of a row.
template <class V, class T>
typename V::Register LoadPart(const T* p, int64_t left) {
  return left >= V::kFloats ? V::Load(p) : V::LoadFirst(p, left);
}
template <class V>
void StorePart(float* p, typename V::Register r, int64_t left) {
  if (left >= V::kFloats) {
    V::Store(p, r);
  } else {
    V::StoreFirst(p, r, left);
  }
}

// sum[0 .. D) = scale * the chain's gradients, added in its order; returns the sum of squares.
template <class V, class T>
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
    squares = V::Add(squares, V::Multiply(total, total));
    V::Store(sum + c, total);
  }
  float parts[V::kFloats];
  V::Store(parts, squares);
  float square = 0;
  for (float part : parts) square += part;
  return square;
}

template <class V, class T>
void Adagrad(float* table, float* accumulator, int64_t dimension, const UpdateChains& chains,
             const T* gradients, const AdagradStep& step, float* sum) {
  const int64_t row_bytes = dimension * sizeof(float), gradient_bytes = dimension * sizeof(T);
  const typename V::Register rate = V::Broadcast(step.learning_rate);
  const typename V::Register epsilon = V::Broadcast(step.epsilon);
  for (int64_t k = 0; k < chains.count; ++k) {
    if (k + kRowsAhead / 2 < chains.count) {
      const RowUpdate& ahead = chains.updates[chains.first[k + kRowsAhead / 2]];
      PrefetchRow<1>(table + ahead.row * dimension, row_bytes);
      PrefetchRow<0>(gradients + ahead.gradient * dimension, gradient_bytes);
      if (step.row_wise) {
        __builtin_prefetch(accumulator + ahead.row, 1, 3);
      } else {
        PrefetchRow<1>(accumulator + ahead.row * dimension, row_bytes);
      }
    }
    const int64_t update = chains.first[k];
    const int64_t row_number = chains.updates[update].row;
    float* row = table + row_number * dimension;
    const float square =
        SumChain<V>(chains, update, dimension, gradients, step.scale, sum);
    if (step.row_wise) {
      accumulator[row_number] += square / static_cast<float>(dimension);
      const float root = __builtin_sqrtf(accumulator[row_number]) + step.epsilon;
      const typename V::Register factor = V::Broadcast(step.learning_rate / root);
      for (int64_t c = 0; c < dimension; c += V::kFloats) {
        const int64_t left = dimension - c;
        const typename V::Register change = V::Multiply(factor, V::Load(sum + c));
        StorePart<V>(row + c, V::Subtract(LoadPart<V>(row + c, left), change), left);
      }
      continue;
    }
    float* accumulators = accumulator + row_number * dimension;
    for (int64_t c = 0; c < dimension; c += V::kFloats) {
      const int64_t left = dimension - c;
      const typename V::Register g = V::Load(sum + c);
      const typename V::Register total =
          V::Add(LoadPart<V>(accumulators + c, left), V::Multiply(g, g));
      StorePart<V>(accumulators + c, total, left);
      const typename V::Register change =
          V::Divide(V::Multiply(rate, g), V::Add(V::SquareRoot(total), epsilon));
      StorePart<V>(row + c, V::Subtract(LoadPart<V>(row + c, left), change), left);
    }
  }
}

template <class V, class T>
EmbeddingFunctions<T> FunctionsOf() {
  return {Gather<V, T>, Sgd<V, T>, Adagrad<V, T>};
}

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_ROWS_H_
