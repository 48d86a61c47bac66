// The dot interaction's gradient in float32 arithmetic, for any vector type V.
//
// With S the symmetric matrix of the pairs' gradients (zero diagonal), the gradient of row i is
// sum_j S[i, j] * row j, and row 0 adds the gradient of its own copy in the output. A block of
// kGradientRows rows x kGradientColumns registers of columns stays in registers over all j.
//
// Each file that includes this has its own copy (unnamed namespace), compiled with its flags.

#ifndef DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_BACKWARD_H_
#define DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_BACKWARD_H_

#include <type_traits>

#include "dot_interaction/dot_interaction_forward.h"

namespace dlrm {
namespace {

// Loads a unit of columns of type T into kRegisters float32 registers and stores it from them: here
// in order. An instruction set may use a cheaper order, because the gradient's columns are
// independent.
template <class V, class T>
struct ColumnsInOrder {
  using Register = typename V::Register;
  static constexpr int kRegisters = 1;
  static void Load(const T* p, Register* r) { r[0] = V::Load(p); }
  static void LoadFirst(const T* p, int64_t count, Register* r) { r[0] = V::LoadFirst(p, count); }
  static void Store(T* p, const Register* r) { V::Store(p, r[0]); }
  static void StoreFirst(T* p, const Register* r, int64_t count) { V::StoreFirst(p, r[0], count); }
  static void Stream(T* p, const Register* r) { V::Stream(p, r[0]); }
};

// Float32 columns that the blocks read: the input itself or a copy.
struct RowsOfColumns {
  const float* bottom;   // row 0
  const float* vectors;  // row 1
  int64_t stride;        // floats from one row to the next
};

// sums[r] += factors[r] * the columns at p, for r != skipped.
template <class V, int R, int C>
inline __attribute__((always_inline)) void AddRow(const typename V::Register (&factors)[R],
                                                  int skipped, const float* p,
                                                  typename V::Register (*sums)[C]) {
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) {
    const typename V::Register column = V::Load(p + c * V::kFloats);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      if (r != skipped) sums[r][c] = V::MultiplyAdd(factors[r], column, sums[r][c]);
    }
  }
}

// Gradient of rows [row, row + R), C registers of columns, into sums. Inlined so that the sums stay
// in registers. S[i, j] is read from the packed pairs: at i (i - 1) / 2 + j for j < i, at
// j (j - 1) / 2 + i for j > i.
template <class V, int R, int C>
inline __attribute__((always_inline)) void GradientBlock(const float* pairs, int64_t features,
                                                         int64_t row, const RowsOfColumns& columns,
                                                         typename V::Register (*sums)[C],
                                                         Prefetcher* prefetcher) {
  using Register = typename V::Register;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sums[r][c] = V::Zero();
  }
  const float* p = columns.bottom;
  Prefetcher ahead = *prefetcher;
  const float* before[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) before[r] = pairs + PairIndex(row + r, 0);
  for (int64_t j = 0; j < row; ++j) {
    ahead.Line();
    Register factors[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) factors[r] = V::Broadcast(before[r][j]);
    AddRow<V, R, C>(factors, -1, p, sums);
    p = columns.vectors + j * columns.stride;
  }
  // The block's own rows: S is zero at r == d.
#pragma GCC unroll 8
  for (int d = 0; d < R; ++d) {
    Register factors[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float* pair = r < d ? before[d] + row + r : before[r] + row + d;
      factors[r] = r == d ? V::Zero() : V::Broadcast(*pair);
    }
    ahead.Line();
    AddRow<V, R, C>(factors, d, p, sums);
    p = columns.vectors + (row + d) * columns.stride;
  }
  const float* after = pairs + PairIndex(row + R, row);
  for (int64_t j = row + R; j < features; ++j) {
    ahead.Line();
    Register factors[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) factors[r] = V::Broadcast(after[r]);
    AddRow<V, R, C>(factors, -1, p, sums);
    p = columns.vectors + j * columns.stride;
    after += j;
  }
  *prefetcher = ahead;
}

template <class T>
struct GradientTarget {
  T* bottom;
  T* vectors;
  const T* bottom_gradient;  // gradient of the copy of row 0
  int64_t dimension;
  bool stream;  // rows are aligned for streaming stores

  T* Row(int64_t row) const { return row == 0 ? bottom : vectors + (row - 1) * dimension; }
};

// Computes and stores the gradient of rows [row, row + R) at columns [column, column + C
// registers).
template <class V, class T, class Columns, int R, int C>
void StoreGradientBlock(const float* pairs, int64_t features, int64_t row, int64_t column,
                        const RowsOfColumns& columns, const GradientTarget<T>& target,
                        Prefetcher* prefetcher) {
  typename V::Register sums[R][C];
  GradientBlock<V, R, C>(pairs, features, row, columns, sums, prefetcher);
  // Unrolled like every loop over the sums: a variable index would force them into memory.
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const bool is_bottom = row + r == 0;
    T* out = target.Row(row + r) + column;
#pragma GCC unroll 8
    for (int c = 0; c < C; c += Columns::kRegisters) {
      constexpr int64_t kUnit = Columns::kRegisters * V::kFloats;
      const int64_t left = target.dimension - column - c * V::kFloats;
      T* address = out + c * V::kFloats;
      typename V::Register* sum = sums[r] + c;
      if (is_bottom && left > 0) {
        const T* own = target.bottom_gradient + column + c * V::kFloats;
        typename V::Register added[Columns::kRegisters];
        if (left >= kUnit) {
          Columns::Load(own, added);
        } else {
          Columns::LoadFirst(own, left, added);
        }
        for (int k = 0; k < Columns::kRegisters; ++k) sum[k] = V::Add(sum[k], added[k]);
      }
      if (left >= kUnit) {
        if (target.stream) {
          Columns::Stream(address, sum);
        } else {
          Columns::Store(address, sum);
        }
      } else if (left > 0) {
        Columns::StoreFirst(address, sum, left);
      }
    }
  }
}

// All rows, C registers of columns from `column` on.
template <class V, class T, class Columns, int C>
void GradientColumns(const float* pairs, int64_t features, int64_t column,
                     const RowsOfColumns& columns, const GradientTarget<T>& target,
                     Prefetcher* prefetcher) {
  constexpr int R = V::kGradientRows;
  int64_t row = 0;
  for (; row + R <= features; row += R) {
    StoreGradientBlock<V, T, Columns, R, C>(pairs, features, row, column, columns, target,
                                            prefetcher);
  }
  for (; row < features; ++row) {
    StoreGradientBlock<V, T, Columns, 1, C>(pairs, features, row, column, columns, target,
                                            prefetcher);
  }
}

// Whether the blocks can read the input without a copy: it is float32, rows are a multiple of a
// register, and the gradient does not overwrite it.
template <class V, class T>
bool ReadsInPlace(const DotInteractionShape& shape, const FeatureRows<const T>& in,
                  const FeatureRows<T>& out) {
  return sizeof(T) == sizeof(float) && shape.dimension % V::kFloats == 0 &&
         in.bottom != out.bottom && in.vectors != out.vectors;
}

// For float32 copies of the pairs and of the rows.
template <class V, class Columns>
size_t BackwardScratchBytes(const DotInteractionShape& shape) {
  const int64_t pairs = RoundUp(PairCount(shape.features), 16);
  const int64_t copy = shape.features * RoundUp(shape.dimension, Columns::kRegisters * V::kFloats);
  return (pairs + copy) * sizeof(float);
}

template <class V, class T, class Columns>
void CopyRow(const T* row, int64_t dimension, float* out) {
  constexpr int K = Columns::kRegisters;
  typename V::Register r[K];
  int64_t c = 0;
  for (; c + K * V::kFloats <= dimension; c += K * V::kFloats) {
    Columns::Load(row + c, r);
    for (int k = 0; k < K; ++k) V::Store(out + c + k * V::kFloats, r[k]);
  }
  if (c < dimension) {
    Columns::LoadFirst(row + c, dimension - c, r);
    for (int k = 0; k < K; ++k) V::Store(out + c + k * V::kFloats, r[k]);
  }
}

// Whether every gradient row starts and ends at a multiple of 64 bytes, in other memory than the
// rows (which are cached).
template <class T>
bool CanStream(const DotInteractionShape& shape, const FeatureRows<const T>& in,
               const FeatureRows<T>& out) {
  return in.bottom != out.bottom && in.vectors != out.vectors && IsAligned(out, 64) &&
         shape.dimension * sizeof(T) % 64 == 0;
}

template <class V, class T, class Columns = ColumnsInOrder<V, T>>
void Backward(const DotInteractionShape& shape, const FeatureRows<const T>& in, const T* gradient,
              const FeatureRows<T>& out, int64_t begin, int64_t end, void* scratch) {
  const int64_t F = shape.features, D = shape.dimension;
  const int64_t pair_count = PairCount(F);
  float* pairs_copy = static_cast<float*>(scratch);
  float* copy = pairs_copy + RoundUp(pair_count, 16);
  constexpr int kUnit = Columns::kRegisters;
  const int64_t copy_stride = RoundUp(D, kUnit * V::kFloats);
  constexpr int C = V::kGradientColumns;
  const bool in_place = ReadsInPlace<V>(shape, in, out);
  const bool stream = CanStream(shape, in, out);
  for (int64_t b = begin; b < end; ++b) {
    const T* bottom = in.bottom + b * in.bottom_stride;
    const T* vectors = in.vectors + b * in.vectors_stride;
    const T* output_gradient = gradient + b * shape.width;
    const float* pairs = pairs_copy;
    if constexpr (std::is_same_v<T, float>) {
      pairs = output_gradient + D;
    } else {
      CopyRow<V, T, ColumnsInOrder<V, T>>(output_gradient + D, pair_count, pairs_copy);
    }
    RowsOfColumns rows{copy, copy + copy_stride, copy_stride};
    if (in_place) {
      rows = {reinterpret_cast<const float*>(bottom), reinterpret_cast<const float*>(vectors), D};
    } else {
      CopyRow<V, T, Columns>(bottom, D, copy);
      for (int64_t i = 1; i < F; ++i) {
        CopyRow<V, T, Columns>(vectors + (i - 1) * D, D, copy + i * copy_stride);
      }
    }
    Prefetcher prefetcher(vectors + in.vectors_stride);
    const GradientTarget<T> target{out.bottom + b * out.bottom_stride,
                                   out.vectors + b * out.vectors_stride, output_gradient, D,
                                   stream};
    int64_t column = 0;
    for (; column + C * V::kFloats <= copy_stride; column += C * V::kFloats) {
      GradientColumns<V, T, Columns, C>(pairs, F, column, rows, target, &prefetcher);
      rows.bottom += C * V::kFloats;
      rows.vectors += C * V::kFloats;
    }
    for (; column < copy_stride; column += kUnit * V::kFloats) {
      GradientColumns<V, T, Columns, kUnit>(pairs, F, column, rows, target, &prefetcher);
      rows.bottom += kUnit * V::kFloats;
      rows.vectors += kUnit * V::kFloats;
    }
  }
  if (stream) V::Fence();
}

template <class V, class T, class Columns = ColumnsInOrder<V, T>>
size_t ScratchBytes(const DotInteractionShape& shape) {
  const size_t forward = ForwardScratchBytes<Float32Products<V, T>>(shape);
  const size_t backward = BackwardScratchBytes<V, Columns>(shape);
  return forward > backward ? forward : backward;
}

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_BACKWARD_H_
