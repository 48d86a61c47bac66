// The embedding ops' inner loops for any vector type V (see cpu/vector_portable.h).
//
// Rows of a large table are in no cache and in no order that hardware can predict: each is
// prefetched some rows ahead.
//
// Each file that includes this has its own copy (unnamed namespace), compiled with its flags.

#ifndef DLRM_OPS_EMBEDDING_EMBEDDING_ROWS_H_
#define DLRM_OPS_EMBEDDING_EMBEDDING_ROWS_H_

#include <type_traits>

#include "cpu/vector_elements.h"
#include "embedding/embedding_cpu.h"

namespace dlrm {
namespace {

// Rows to prefetch ahead. At 512 bytes a row this is about the number of cache lines that a core
// can have in flight; more would evict lines that are still needed.
constexpr int64_t kRowsAhead = 12;

// Inlined always: GCC deletes calls of functions that only prefetch, as without effect, and a call
// in the loop over rows would save and restore that loop's registers.
#define DLRM_INLINE __attribute__((always_inline)) inline

template <int kWrite>
DLRM_INLINE void PrefetchRow(const void* row, int64_t bytes) {
  const char* p = static_cast<const char*>(row);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, kWrite, 3);
}

// A row's elements as a type; 0: known at run time only.
template <int64_t kDimension>
using Dimension = std::integral_constant<int64_t, kDimension>;

// Calls work(Dimension). Loops over a row of known length, unrolled, leave more of the core to the
// prefetches of other rows: an update takes a fifth to a quarter less time.
template <class Work>
void WithDimension(int64_t dimension, const Work& work) {
  switch (dimension) {
    case 16:
      return work(Dimension<16>());
    case 32:
      return work(Dimension<32>());
    case 64:
      return work(Dimension<64>());
    case 128:
      return work(Dimension<128>());
    default:
      return work(Dimension<0>());
  }
}

template <int64_t kDimension, class V, class Row, class T>
void GatherRows(const Row* table, int64_t any_dimension, const int64_t* rows, int64_t count,
                bool stream, T* out) {
  const int64_t dimension = kDimension != 0 ? kDimension : any_dimension;
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

template <class V, class Row, class T>
void Gather(const Row* table, int64_t dimension, const int64_t* rows, int64_t count, bool stream,
            T* out) {
  WithDimension(dimension, [&](auto known) {
    GatherRows<decltype(known)::value, V>(table, dimension, rows, count, stream, out);
  });
}

// A number of registers as a type; 0: one register with fewer elements than it could have.
template <int kCount>
using Registers = std::integral_constant<int, kCount>;

// Divides D columns into blocks of up to 8 registers, so that each block's sums fit into registers:
// calls block(first column, Registers).
template <class V, class Block>
void EachColumnBlock(int64_t dimension, const Block& block) {
  int64_t c = 0;
  for (; dimension - c >= 8 * V::kFloats; c += 8 * V::kFloats) block(c, Registers<8>());
  if (dimension - c >= 4 * V::kFloats) block(c, Registers<4>()), c += 4 * V::kFloats;
  if (dimension - c >= 2 * V::kFloats) block(c, Registers<2>()), c += 2 * V::kFloats;
  if (dimension - c >= V::kFloats) block(c, Registers<1>()), c += V::kFloats;
  if (dimension - c > 0) block(c, Registers<0>());
}

// Register r of a block of columns; `left`: the columns from the block's first one on.
template <class V, int kCount, class T>
typename V::Register LoadOfBlock(const T* p, int r, int64_t left) {
  if constexpr (kCount == 0) return V::LoadFirst(p, left);
  return V::Load(p + r * V::kFloats);
}

// One block of columns of one bag; `table` and `out` point to its first column. The first
// `ahead` rows prefetch those kRowsAhead after them, of `row_bytes` from `prefetched` on.
template <int kCount, class V, class Row, class T>
void PoolBlock(const Row* table, int64_t dimension, const int64_t* rows, int64_t length,
               int64_t ahead, const Row* prefetched, float factor, int64_t left, bool stream,
               T* out) {
  constexpr int kSums = kCount == 0 ? 1 : kCount;
  const int64_t row_bytes = dimension * sizeof(Row);
  typename V::Register sums[kSums];
  for (int r = 0; r < kSums; ++r) sums[r] = V::Zero();
  for (int64_t i = 0; i < length; ++i) {
    if (i < ahead) PrefetchRow<0>(prefetched + rows[i + kRowsAhead] * dimension, row_bytes);
    const Row* row = table + rows[i] * dimension;
    if (i == 0) {  // not 0 + row, which would lose the sign of -0
      for (int r = 0; r < kSums; ++r) sums[r] = LoadOfBlock<V, kCount>(row, r, left);
    } else {
      for (int r = 0; r < kSums; ++r) {
        sums[r] = V::Add(sums[r], LoadOfBlock<V, kCount>(row, r, left));
      }
    }
  }
  const typename V::Register factors = V::Broadcast(factor);
  for (int r = 0; r < kSums; ++r) {
    const typename V::Register value = V::Multiply(sums[r], factors);
    if constexpr (kCount == 0) {
      V::StoreFirst(out, value, left);
    } else if (stream) {
      V::Stream(out + r * V::kFloats, value);
    } else {
      V::Store(out + r * V::kFloats, value);
    }
  }
}

template <int64_t kDimension, class V, class Row, class T>
void PoolBags(const Row* table, int64_t any_dimension, const RowBags& bags, bool stream, T* out) {
  const int64_t dimension = kDimension != 0 ? kDimension : any_dimension;
  const int64_t* rows = bags.rows;
  const int64_t* const end = rows + bags.row_count;
  for (int64_t k = 0; k < kRowsAhead && k < bags.row_count; ++k) {
    PrefetchRow<0>(table + rows[k] * dimension, dimension * sizeof(Row));
  }
  for (int64_t k = 0; k < bags.bag_count; ++k, out += dimension) {
    const int64_t length = bags.lengths[k];
    const int64_t ahead = end - rows - kRowsAhead;  // more than length: next bags' rows, too
    EachColumnBlock<V>(dimension, [&](int64_t c, auto registers) {
      PoolBlock<decltype(registers)::value, V>(table + c, dimension, rows, length,
                                               c == 0 ? ahead : 0, table, bags.factors[k],
                                               dimension - c, stream, out + c);
    });
    rows += length;
  }
  if (stream) V::Fence();
}

template <class V, class Row, class T>
void Pool(const Row* table, int64_t dimension, const RowBags& bags, bool stream, T* out) {
  WithDimension(dimension, [&](auto known) {
    PoolBags<decltype(known)::value, V>(table, dimension, bags, stream, out);
  });
}

// A bag's gradient, multiplied by its factor.
template <bool kFactors, class V>
typename V::Register Scaled(typename V::Register gradient, typename V::Register factor) {
  if constexpr (kFactors) return V::Multiply(factor, gradient);
  return gradient;
}

template <bool kFactors, class V>
typename V::Register FactorOf(const UpdateChains& chains, int64_t gradient) {
  if constexpr (kFactors) return V::Broadcast(chains.factors[gradient]);
  return V::Zero();
}

// Applies a rule to each gradient in turn.
template <int64_t kDimension, bool kFactors, class V, class Row, class T, class Rule>
void UpdateInOrder(const RowsAndStates<Row>& table, const UpdateChains& chains, const T* gradients,
                   const RowStep& step) {
  static_assert(Rule::kColumnStates == 0 && Rule::kRowStates == 0, "rules in order have no state");
  using Register = typename V::Register;
  const Rule rule(step);
  const int64_t dimension = kDimension != 0 ? kDimension : table.dimension;
  const int64_t count = chains.update_count;
  const int64_t full = dimension / V::kFloats * V::kFloats, rest = dimension - full;
  const int64_t row_bytes = dimension * sizeof(Row), gradient_bytes = dimension * sizeof(T);
  // Vector stores may alias anything: locals keep the loop's pointers in registers.
  Row* const rows = table.rows;
  const RowUpdate* const updates = chains.updates;
  const Register none = V::Zero();
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
    const Register factor = FactorOf<kFactors, V>(chains, updates[k].gradient);
    for (int64_t c = 0; c < full; c += V::kFloats) {
      const Register g = Scaled<kFactors, V>(V::Load(gradient + c), factor);
      V::Store(row + c, rule.Apply(V::Load(row + c), g, nullptr, none));
    }
    if (rest != 0) {
      const Register g = Scaled<kFactors, V>(V::LoadFirst(gradient + full, rest), factor);
      V::StoreFirst(row + full, rule.Apply(V::LoadFirst(row + full, rest), g, nullptr, none), rest);
    }
  }
}

// One block of columns of SumChain; `gradients` and `sum` point to its first column. Adds the sum's
// squares to *squares if kSquares.
template <bool kFactors, bool kSquares, int kCount, class V, class T>
void SumBlock(const UpdateChains& chains, uint32_t update, int64_t dimension, const T* gradients,
              int64_t left, float scale, float* sum, typename V::Register* squares) {
  using Register = typename V::Register;
  constexpr int kSums = kCount == 0 ? 1 : kCount;
  Register sums[kSums];
  for (int r = 0; r < kSums; ++r) sums[r] = V::Zero();
  for (uint32_t k = update; k != kNoUpdate; k = chains.next[k]) {
    const int64_t place = chains.updates[k].gradient;
    const T* gradient = gradients + place * dimension;
    const Register factor = FactorOf<kFactors, V>(chains, place);
    for (int r = 0; r < kSums; ++r) {
      const Register g = LoadOfBlock<V, kCount>(gradient, r, left);
      sums[r] = V::Add(sums[r], Scaled<kFactors, V>(g, factor));
    }
  }
  const Register scales = V::Broadcast(scale);
  for (int r = 0; r < kSums; ++r) {
    const Register total = V::Multiply(sums[r], scales);
    if constexpr (kSquares) *squares = V::Add(*squares, V::Multiply(total, total));
    V::Store(sum + r * V::kFloats, total);
  }
}

// The sum of a register's elements.
template <class V>
float SumOf(typename V::Register r) {
  float parts[V::kFloats];
  V::Store(parts, r);
  for (int width = V::kFloats / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
  }
  return parts[0];
}

// sum[0 .. D) = scale * the sum of the chain's gradients, in chain order. With kSquares returns the
// sum of its squares, else 0. Inlined never: its registers are not those of the usual case, a row
// with one gradient.
template <bool kFactors, bool kSquares, class V, class T>
__attribute__((noinline)) float SumChain(const UpdateChains& chains, uint32_t update,
                                         int64_t dimension, const T* gradients, float scale,
                                         float* sum) {
  typename V::Register squares = V::Zero();
  EachColumnBlock<V>(dimension, [&](int64_t c, auto registers) {
    SumBlock<kFactors, kSquares, decltype(registers)::value, V>(
        chains, update, dimension, gradients + c, dimension - c, scale, sum + c, &squares);
  });
  return kSquares ? SumOf<V>(squares) : 0;
}

// Prefetches the row of a chain, its states and its first gradients.
template <class Rule, class Row, class T>
DLRM_INLINE void PrefetchChain(const RowsAndStates<Row>& table, const UpdateChains& chains,
                               uint32_t update, const T* gradients) {
  // The other gradients of a longer chain are loaded while earlier ones are added.
  constexpr int kGradients = 4;
  const int64_t dimension = table.dimension, row = chains.updates[update].row;
  PrefetchRow<1>(table.rows + row * dimension, dimension * sizeof(Row));
  for (int i = 0; i < kGradients && update != kNoUpdate; ++i, update = chains.next[update]) {
    PrefetchRow<0>(gradients + chains.updates[update].gradient * dimension, dimension * sizeof(T));
  }
  for (int s = 0; s < Rule::kColumnStates; ++s) {
    PrefetchRow<1>(table.states[s] + row * dimension, dimension * sizeof(float));
  }
  for (int s = Rule::kColumnStates; s < Rule::kColumnStates + Rule::kRowStates; ++s) {
    __builtin_prefetch(table.states[s] + row, 1, 3);
  }
}

// The sum of the squares of D values.
template <class V, class T>
DLRM_INLINE float SumOfSquares(const T* values, int64_t dimension) {
  typename V::Register even = V::Zero(), odd = V::Zero();
  int64_t c = 0;
  for (; c + 2 * V::kFloats <= dimension; c += 2 * V::kFloats) {
    const typename V::Register first = V::Load(values + c),
                               second = V::Load(values + c + V::kFloats);
    even = V::MultiplyAdd(first, first, even);
    odd = V::MultiplyAdd(second, second, odd);
  }
  for (; c < dimension; c += V::kFloats) {
    const typename V::Register rest = LoadUpTo<V>(values + c, dimension - c);
    even = V::MultiplyAdd(rest, rest, even);
  }
  return SumOf<V>(V::Add(even, odd));
}

// Applies a rule to one row with a gradient times its bag's factor times scale, as in SumChain.
template <bool kFactors, class V, class Row, class T, class Rule>
DLRM_INLINE void UpdateRow(const RowsAndStates<Row>& table, int64_t row_number, const Rule& rule,
                           typename V::Register row_factor, const T* gradient,
                           typename V::Register factor, typename V::Register scale) {
  constexpr int kColumnStates = Rule::kColumnStates;
  const int64_t dimension = table.dimension, begin = row_number * dimension;
  const int64_t full = dimension / V::kFloats * V::kFloats;
  Row* const row = table.rows + begin;
  float* states[kColumnStates + 1];  // + 1: an array of size 0 is not allowed
  for (int s = 0; s < kColumnStates; ++s) states[s] = table.states[s] + begin;
  typename V::Register values[kColumnStates + 1];
  for (int64_t c = 0; c < full; c += V::kFloats) {
    for (int s = 0; s < kColumnStates; ++s) values[s] = V::Load(states[s] + c);
    const typename V::Register g =
        V::Multiply(Scaled<kFactors, V>(V::Load(gradient + c), factor), scale);
    V::Store(row + c, rule.Apply(V::Load(row + c), g, values, row_factor));
    for (int s = 0; s < kColumnStates; ++s) V::Store(states[s] + c, values[s]);
  }
  if (const int64_t rest = dimension - full; rest != 0) {
    for (int s = 0; s < kColumnStates; ++s) values[s] = V::LoadFirst(states[s] + full, rest);
    const typename V::Register g =
        V::Multiply(Scaled<kFactors, V>(V::LoadFirst(gradient + full, rest), factor), scale);
    V::StoreFirst(row + full, rule.Apply(V::LoadFirst(row + full, rest), g, values, row_factor),
                  rest);
    for (int s = 0; s < kColumnStates; ++s) V::StoreFirst(states[s] + full, values[s], rest);
  }
}

// Applies a rule once to each row, with the sum of its gradients. The only gradient of a row is
// read twice instead of being copied.
template <int64_t kDimension, bool kFactors, class V, class Row, class T, class Rule>
void UpdateSummed(const RowsAndStates<Row>& shared_table, const UpdateChains& shared_chains,
                  const T* gradients, const RowStep& step, float* sum) {
  constexpr int kColumnStates = Rule::kColumnStates, kRowStates = Rule::kRowStates;
  // Fewer than kRowsAhead, as a chain also has states: more was slower.
  constexpr int64_t kChainsAhead = 6;
  const Rule rule(step);
  // Vector stores may alias anything: locals keep the loop's pointers in registers.
  RowsAndStates<Row> table = shared_table;
  if (kDimension != 0) table.dimension = kDimension;
  const UpdateChains chains = shared_chains;
  const float scale = step.scale;
  const int64_t dimension = table.dimension, count = chains.row_count;
  for (int64_t k = 0; k < count; ++k) {
    if (k + kChainsAhead < count) {
      PrefetchChain<Rule>(table, chains, chains.first[k + kChainsAhead], gradients);
    }
    const uint32_t update = chains.first[k];
    const RowUpdate& first = chains.updates[update];
    const bool only = chains.next[update] == kNoUpdate;
    const T* const gradient = gradients + first.gradient * dimension;
    const float bag_factor = kFactors ? chains.factors[first.gradient] : 1.0f;
    float factor = 0;
    if (!only) {
      factor = SumChain<kFactors, (kRowStates > 0), V>(shared_chains, update, dimension, gradients,
                                                       scale, sum);
    } else if constexpr (kRowStates > 0) {
      const float scales = bag_factor * scale;
      factor = scales * scales * SumOfSquares<V>(gradient, dimension);
    }
    if constexpr (kRowStates > 0) {
      float values[kRowStates];
      for (int s = 0; s < kRowStates; ++s) values[s] = table.states[kColumnStates + s][first.row];
      factor = rule.BeginRow(factor / static_cast<float>(dimension), values);
      for (int s = 0; s < kRowStates; ++s) table.states[kColumnStates + s][first.row] = values[s];
    }
    const typename V::Register factors = V::Broadcast(factor), one = V::Broadcast(1.0f);
    if (only) {
      UpdateRow<kFactors, V>(table, first.row, rule, factors, gradient, V::Broadcast(bag_factor),
                             V::Broadcast(scale));
    } else {
      UpdateRow<false, V>(table, first.row, rule, factors, sum, one, one);
    }
  }
}

template <int64_t kDimension, bool kFactors, class V, class Row, class T, class Rule>
void UpdateWith(const RowsAndStates<Row>& table, const UpdateChains& chains, const T* gradients,
                const RowStep& step, float* sum) {
  if constexpr (Rule::kInOrder) {
    UpdateInOrder<kDimension, kFactors, V, Row, T, Rule>(table, chains, gradients, step);
  } else {
    UpdateSummed<kDimension, kFactors, V, Row, T, Rule>(table, chains, gradients, step, sum);
  }
}

template <class V, class Row, class T, class Rule>
void Update(const RowsAndStates<Row>& table, const UpdateChains& chains, const T* gradients,
            const RowStep& step, float* sum) {
  WithDimension(table.dimension, [&](auto known) {
    constexpr int64_t kDimension = decltype(known)::value;
    if (chains.factors == nullptr) {
      UpdateWith<kDimension, false, V, Row, T, Rule>(table, chains, gradients, step, sum);
    } else {
      UpdateWith<kDimension, true, V, Row, T, Rule>(table, chains, gradients, step, sum);
    }
  });
}

template <class V, class Row, class T, template <class> class... Rules>
EmbeddingFunctions<Row, T> FunctionsWith(RowRuleList<Rules...>) {
  return {Gather<V, Row, T>, Pool<V, Row, T>, {Update<V, Row, T, Rules<V>>...}};
}

template <class V, class Row, class T>
EmbeddingFunctions<Row, T> FunctionsOf() {
  return FunctionsWith<V, Row, T>(RowRules{});
}

#undef DLRM_INLINE

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_EMBEDDING_EMBEDDING_ROWS_H_
