// The dot interaction's forward kernel, for any vector type V (see cpu/vector_portable.h).
//
// If rows were laid out along registers, each scalar product would end in a sum across a register,
// which costs as much as the products. So rows are interleaved first: a "group" of V::kLanes rows
// fills the lanes of a register with 128 bits ("a piece") of each row. A piece of another row,
// broadcast to every lane, then multiplies all rows of the group at once, and only the four
// elements of a lane remain to be summed. Blocks of four rows by up to four groups keep 16 sums in
// registers.
//
// Each file that includes this has its own copy (unnamed namespace), compiled with its flags.

#ifndef DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_FORWARD_H_
#define DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_FORWARD_H_

#include "dot_interaction/dot_interaction_cpu.h"

namespace dlrm {
namespace {

// float32 products of elements T in V's registers.
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

// Prefetches the next sample's rows, one cache line per step of this sample's products. The
// hardware prefetchers would start only when the next sample's loads begin, while no products run.
// Prefetching past the rows is harmless.
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

// Interleaves one register of each row of a group; load(l) returns the register of row l.
template <class V, class Load>
inline __attribute__((always_inline)) void InterleaveRegisters(float* out, const Load& load) {
  typename V::Register r[V::kLanes];
  for (int l = 0; l < V::kLanes; ++l) r[l] = load(l);
  V::TransposeLanes(r);
  for (int l = 0; l < V::kLanes; ++l) V::Store(out + l * V::kFloats, r[l]);
}

// Interleaves rows: pieces[group][piece of the row][row in group], 16 bytes each, padded with
// zeros. A row fills `registers` registers.
template <class P>
void InterleaveRows(const DotInteractionShape& shape, const typename P::Element* bottom,
                    const typename P::Element* vectors, int64_t registers, float* pieces) {
  using V = typename P::Vector;
  constexpr int kStep = V::kLanes * V::kFloats;
  const int64_t full = shape.dimension / P::kColumns, rest = shape.dimension % P::kColumns;
  for (int64_t first = 0; first < shape.features; first += V::kLanes) {
    const typename P::Element* rows[V::kLanes];
    for (int l = 0; l < V::kLanes; ++l) {
      const int64_t row = first + l;
      rows[l] = row == 0 ? bottom
                         : (row < shape.features ? vectors + (row - 1) * shape.dimension : nullptr);
    }
    float* out = pieces + first * registers * V::kFloats;
    if (rows[V::kLanes - 1] != nullptr) {
      for (int64_t c = 0; c < full; ++c, out += kStep) {
        InterleaveRegisters<V>(out,
                               [&](int l) { return P::LoadColumns(rows[l] + c * P::kColumns); });
      }
    } else {
      for (int64_t c = 0; c < full; ++c, out += kStep) {
        InterleaveRegisters<V>(out, [&](int l) {
          return rows[l] == nullptr ? V::Zero() : P::LoadColumns(rows[l] + c * P::kColumns);
        });
      }
    }
    if (rest != 0) {
      InterleaveRegisters<V>(out, [&](int l) {
        return rows[l] == nullptr ? V::Zero() : P::LoadFirst(rows[l] + full * P::kColumns, rest);
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
  // Every loop over the sums is unrolled: a variable index would force them into memory.
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
  // Stores are kLanes wide even at the triangle's edge. The excess elements land on pairs of a
  // later row and smaller column, which are stored afterwards, here or by a later block.
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
  // Four groups are done as two and two: three and one use the registers less well.
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

// Pieces of all groups, then the pairs with padding for the excess of the last stores.
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
    InterleaveRows<P>(shape, bottom, vectors, registers, pieces);
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
    // The padding's zeros are written by the same loop of stores.
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
