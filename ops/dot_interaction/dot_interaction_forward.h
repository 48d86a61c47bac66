// The dot interaction's forward kernel, for any vector type V (see cpu/vector_portable.h).
//
// A scalar product of two rows laid along a register ends in a sum across it, which costs as much
// as the products. So the rows are first laid side by side: a "group" of V::kLanes rows fills the
// lanes of a register, 128 bits ("a piece") of each. A piece of another row, broadcast to every
// lane, then multiplies all the group's rows at once, and what is left to add up is a single lane.
// Blocks of four rows against up to four groups keep 16 sums in registers.
//
// Each file that includes this has its own copy (unnamed namespace), compiled with its flags.

#ifndef DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_FORWARD_H_
#define DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_FORWARD_H_

#include "dot_interaction/dot_interaction_cpu.h"

namespace dlrm {
namespace {

// How float32 products of T are formed with V's registers.
template <class V, class T>
struct Float32Products {
  using Vector = V;
  using Element = T;
  static constexpr int kColumns = V::kFloats;  // columns of a row in one register
  static typename V::Register LoadColumns(const T* p) { return V::Load(p); }
  static typename V::Register LoadFirst(const T* p, int64_t count) {
    return V::LoadFirst(p, count);
  }
  static typename V::Register MultiplyAdd(typename V::Register a, typename V::Register b,
                                          typename V::Register sum) {
    return V::MultiplyAdd(a, b, sum);
  }
};

// Asks for the next sample's rows, a line at each step of the products of this one: a sample is
// long enough for the hardware's prefetchers, but its loads and its products come one after the
// other. Running past the rows is harmless: it reaches the sample after the next, or nothing.
class Prefetcher {
 public:
  explicit Prefetcher(const void* next) : next_(reinterpret_cast<uintptr_t>(next)) {}

  void Line() {
    __builtin_prefetch(reinterpret_cast<const void*>(next_), 0, 2);
    next_ += 64;
  }

 private:
  uintptr_t next_;
};

// Lays one register of each row of a group side by side; load(l) returns that of row l.
template <class V, class Load>
inline __attribute__((always_inline)) void LayRegisters(float* out, const Load& load) {
  typename V::Register r[V::kLanes];
  for (int l = 0; l < V::kLanes; ++l) r[l] = load(l);
  V::TransposeLanes(r);
  for (int l = 0; l < V::kLanes; ++l) V::Store(out + l * V::kFloats, r[l]);
}

// Lays rows side by side: pieces[group][piece of the row][row in group], 16 bytes each, padded
// with zeros. `registers` is how many registers a row takes.
template <class P>
void LayPieces(const DotInteractionShape& shape, const typename P::Element* bottom,
               const typename P::Element* vectors, int64_t registers, float* pieces) {
  using V = typename P::Vector;
  constexpr int kStep = V::kLanes * V::kFloats;
  const int64_t whole = shape.dimension / P::kColumns, rest = shape.dimension % P::kColumns;
  for (int64_t first = 0; first < shape.features; first += V::kLanes) {
    const typename P::Element* rows[V::kLanes];
    for (int l = 0; l < V::kLanes; ++l) {
      const int64_t row = first + l;
      rows[l] = row == 0 ? bottom
                         : (row < shape.features ? vectors + (row - 1) * shape.dimension : nullptr);
    }
    float* out = pieces + first * registers * V::kFloats;
    if (rows[V::kLanes - 1] != nullptr) {
      for (int64_t c = 0; c < whole; ++c, out += kStep) {
        LayRegisters<V>(out, [&](int l) { return P::LoadColumns(rows[l] + c * P::kColumns); });
      }
    } else {
      for (int64_t c = 0; c < whole; ++c, out += kStep) {
        LayRegisters<V>(out, [&](int l) {
          return rows[l] == nullptr ? V::Zero() : P::LoadColumns(rows[l] + c * P::kColumns);
        });
      }
    }
    if (rest != 0) {
      LayRegisters<V>(out, [&](int l) {
        return rows[l] == nullptr ? V::Zero() : P::LoadFirst(rows[l] + whole * P::kColumns, rest);
      });
    }
  }
}

// Products of rows [row, row + Q) with groups [group, group + G) into `pairs`, the sample's
// strict lower triangle. The last Q - 4 rows' results go to `sink` when Q < 4.
template <class P, int Q, int G>
void Block(const float* pieces, int64_t group_floats, int64_t row, int64_t group, float* pairs,
           float* sink, Prefetcher* prefetcher) {
  using V = typename P::Vector;
  const float* a[Q];
  for (int q = 0; q < Q; ++q) {
    a[q] = pieces + (row + q) / V::kLanes * group_floats + (row + q) % V::kLanes * 4;
  }
  const float* b = pieces + group * group_floats;
  typename V::Register sums[G][4];
  // Every loop over the sums is unrolled: an index that is not a constant would put them all into
  // memory.
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
    for (int q = 0; q < 4; ++q) sums[g][q] = V::Zero();
  }
  Prefetcher ahead = *prefetcher;
  for (int64_t k = 0; k < group_floats; k += V::kFloats) {
    ahead.Line();
    typename V::Register right[G];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) right[g] = V::Load(b + g * group_floats + k);
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) {
      const typename V::Register left = V::BroadcastLane(a[q] + k);
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) sums[g][q] = P::MultiplyAdd(left, right[g], sums[g][q]);
    }
  }
  *prefetcher = ahead;
  // A store is kLanes wide even where the triangle is not: what runs over falls on pairs of a
  // later row and smaller column, which are stored after it, here or by a later block.
#pragma GCC unroll 8
  for (int g = G - 1; g >= 0; --g) {
    float* out[4];
#pragma GCC unroll 8
    for (int q = 0; q < 4; ++q) {
      const int64_t i = row + q;
      out[q] = q < Q ? pairs + PairIndex(i, (group + g) * V::kLanes) : sink;
    }
    V::SumLanes(sums[g], out);
  }
}

template <class P, int Q>
void BlockOfRows(const float* pieces, int64_t group_floats, int64_t row, float* pairs, float* sink,
                 Prefetcher* prefetcher) {
  constexpr int kTile = P::Vector::kLanes == 4 ? 4 : P::Vector::kLanes == 2 ? 3 : 2;
  int64_t groups = RoundUp(row + Q - 1, P::Vector::kLanes) / P::Vector::kLanes;
  // Three groups and one make worse use of the registers than two and two.
  for (; groups >= kTile && !(kTile == 3 && groups == 4); groups -= kTile) {
    Block<P, Q, kTile>(pieces, group_floats, row, groups - kTile, pairs, sink, prefetcher);
  }
  if (kTile >= 3) {
    for (; groups >= 2; groups -= 2) {
      Block<P, Q, 2>(pieces, group_floats, row, groups - 2, pairs, sink, prefetcher);
    }
  }
  if (groups == 1) {
    Block<P, Q, 1>(pieces, group_floats, row, 0, pairs, sink, prefetcher);
  }
}

template <class P>
int64_t RegistersOfRow(const DotInteractionShape& shape) {
  return RoundUp(shape.dimension, P::kColumns) / P::kColumns;
}

// Pieces of all groups; then the pairs, with room for what the last stores run over.
template <class P>
size_t ForwardScratchBytes(const DotInteractionShape& shape) {
  using V = typename P::Vector;
  const int64_t pieces = RoundUp(shape.features, V::kLanes) * RegistersOfRow<P>(shape) * V::kFloats;
  const int64_t pairs = RoundUp(PairCount(shape.features) + 32, 16);
  return (pieces + pairs + 16) * sizeof(float);
}

template <class P>
void Forward(const DotInteractionShape& shape, const FeatureRows<const typename P::Element>& in,
             typename P::Element* output, int64_t begin, int64_t end, void* scratch) {
  using V = typename P::Vector;
  using T = typename P::Element;
  const int64_t F = shape.features, D = shape.dimension;
  const int64_t registers = RegistersOfRow<P>(shape);
  const int64_t group_floats = registers * V::kLanes * V::kFloats;
  const int64_t pair_count = PairCount(F);
  float* pieces = static_cast<float*>(scratch);
  float* pairs = pieces + RoundUp(F, V::kLanes) * registers * V::kFloats;
  float* sink = pairs + RoundUp(pair_count + 32, 16);
  const int64_t used = D + pair_count, pad = shape.width - used;
  for (int64_t b = begin; b < end; ++b) {
    const T* bottom = in.bottom + b * in.bottom_stride;
    const T* vectors = in.vectors + b * in.vectors_stride;
    Prefetcher prefetcher(vectors + in.vectors_stride);
    LayPieces<P>(shape, bottom, vectors, registers, pieces);
    int64_t row = 1;
    for (; row + 4 <= F; row += 4) {
      BlockOfRows<P, 4>(pieces, group_floats, row, pairs, sink, &prefetcher);
    }
    if (F - row == 3) {
      BlockOfRows<P, 3>(pieces, group_floats, row, pairs, sink, &prefetcher);
    } else if (F - row == 2) {
      BlockOfRows<P, 2>(pieces, group_floats, row, pairs, sink, &prefetcher);
    } else if (F - row == 1) {
      BlockOfRows<P, 1>(pieces, group_floats, row, pairs, sink, &prefetcher);
    }
    T* out = output + b * shape.width;
    memcpy(out, bottom, D * sizeof(T));
    // The padding's zeros are part of the same stream of stores.
    memset(pairs + pair_count, 0, pad * sizeof(float));
    int64_t c = 0;
    for (; c + V::kFloats <= pair_count + pad; c += V::kFloats) {
      V::Store(out + D + c, V::Load(pairs + c));
    }
    if (c < pair_count + pad) {
      V::StoreFirst(out + D + c, V::Load(pairs + c), pair_count + pad - c);
    }
  }
}

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_FORWARD_H_
