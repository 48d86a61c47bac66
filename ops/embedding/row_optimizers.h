// The row optimizers: how a gradient changes one row of a table and its state. The CPU kernels (for
// each instruction set) and the CUDA kernels are generated from these definitions.
//
// A rule is a class template over a vector type V. On CPUs V is a type of cpu/vector_*.h, on GPUs
// one float (DeviceFloat in embedding_rows.cuh). A rule uses only these members of V: Register,
// Broadcast, Add, Subtract, Multiply, Divide, SquareRoot, Where, WherePositive.
//
// A rule has
//   kName             its name, as in model/embedding/optimizers.py;
//   kInOrder          true: applied to each gradient of a row in turn, in the order of the batch;
//                     false: applied once to `scale` times the sum of a row's gradients;
//   kColumnStates     number of states with one value per column; they come first;
//   kRowStates        number of states with one value per row;
//   kHyperparameters  number of values it reads from RowStep::hyperparameters;
//   a constructor     from a RowStep;
//   Apply             (row, gradient, column states, factor) -> the new row; changes the states.
// With kRowStates > 0 it also has
//   BeginRow          (mean of the squares of the row's summed gradient, row states) -> the factor
//                     that Apply receives; changes the row states.
//
// Add a new rule to RowRules at the end of this file: the dispatch of all kernels follows that
// list.
//
// The rules are in an unnamed namespace, as files of different instruction sets include this.

#ifndef DLRM_OPS_EMBEDDING_ROW_OPTIMIZERS_H_
#define DLRM_OPS_EMBEDDING_ROW_OPTIMIZERS_H_

#include <math.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define DLRM_RULE __device__ __forceinline__
#else
#define DLRM_RULE inline __attribute__((always_inline))
#endif

namespace dlrm {

// Upper limits of a rule's states and hyper-parameters.
constexpr int kMaxRowStates = 4;
constexpr int kMaxHyperparameters = 8;

// Scalar inputs of an update.
struct RowStep {
  float learning_rate;
  float scale;                                 // factor on the gradients
  float hyperparameters[kMaxHyperparameters];  // in the order of the registry
};

// A rule's constants, independent of a vector type.
struct RowRuleFacts {
  const char* name;
  bool in_order;
  int column_states;
  int row_states;
  int hyperparameters;
};

// A table's rows and its optimizer's states, those with one value per column first.
template <class Row>
struct RowsAndStates {
  Row* rows;                     // [rows, D]
  float* states[kMaxRowStates];  // [rows, D] or [rows]
  int64_t dimension;             // D
};

namespace {

// Stochastic gradient descent: row -= (learning_rate * scale) * gradient, for each gradient.
template <class V>
struct Sgd {
  using Register = typename V::Register;
  static constexpr const char* kName = "sgd";
  static constexpr bool kInOrder = true;
  static constexpr int kColumnStates = 0, kRowStates = 0, kHyperparameters = 0;

  DLRM_RULE explicit Sgd(const RowStep& s) : step(V::Broadcast(s.learning_rate * s.scale)) {}
  DLRM_RULE Register Apply(Register row, Register gradient, Register*, Register) const {
    return V::Subtract(row, V::Multiply(step, gradient));
  }

  Register step;
};

// Adagrad (Duchi, Hazan and Singer, JMLR 12, 2011):
//   accumulator += g^2;  row -= learning_rate * g / (sqrt(accumulator) + epsilon).
template <class V>
struct Adagrad {
  using Register = typename V::Register;
  static constexpr const char* kName = "adagrad";
  static constexpr bool kInOrder = false;
  static constexpr int kColumnStates = 1, kRowStates = 0, kHyperparameters = 1;

  DLRM_RULE explicit Adagrad(const RowStep& s)
      : rate(V::Broadcast(s.learning_rate)), epsilon(V::Broadcast(s.hyperparameters[0])) {}
  DLRM_RULE Register Apply(Register row, Register g, Register* accumulator, Register) const {
    *accumulator = V::Add(*accumulator, V::Multiply(g, g));
    return V::Subtract(
        row, V::Divide(V::Multiply(rate, g), V::Add(V::SquareRoot(*accumulator), epsilon)));
  }

  Register rate, epsilon;
};

// Adagrad with one accumulator per row, which adds mean(g^2): FBGEMM's EXACT_ROWWISE_ADAGRAD.
template <class V>
struct RowwiseAdagrad {
  using Register = typename V::Register;
  static constexpr const char* kName = "rowwise_adagrad";
  static constexpr bool kInOrder = false;
  static constexpr int kColumnStates = 0, kRowStates = 1, kHyperparameters = 1;

  DLRM_RULE explicit RowwiseAdagrad(const RowStep& s)
      : rate(s.learning_rate), epsilon(s.hyperparameters[0]) {}
  DLRM_RULE float BeginRow(float mean_square, float* accumulator) const {
    *accumulator += mean_square;
    return rate / (sqrtf(*accumulator) + epsilon);
  }
  DLRM_RULE Register Apply(Register row, Register g, Register*, Register factor) const {
    return V::Subtract(row, V::Multiply(factor, g));
  }

  float rate, epsilon;
};

// FTRL-Proximal (McMahan et al., KDD 2013, algorithm 1) with the learning rate as a factor on the
// gradients, so that it can follow a schedule:
//   n = accumulator + g^2
//   z = linear + learning_rate * g - (sqrt(n) - sqrt(accumulator)) * row
//   row = 0 if |z| <= l1, else (sign(z) * l1 - z) / (sqrt(n) + beta + 2 * l2)
//   accumulator = n, linear = z
// A column with n = 0 has had no gradient and keeps its value.
//
// At a constant learning rate these are the values of TensorFlow's ApplyFtrlV2 (learning-rate power
// -1/2, no shrinkage) with l1 / learning_rate, (l2 + beta / 2) / learning_rate, and z =
// learning_rate times its linear. ApplyFtrlV2 itself divides by the current learning rate, so that
// each change of the rate multiplies all weights by the ratio of the rates, and a rate of 0 gives
// NaN.
template <class V>
struct Ftrl {
  using Register = typename V::Register;
  static constexpr const char* kName = "ftrl";
  static constexpr bool kInOrder = false;
  static constexpr int kColumnStates = 2, kRowStates = 0, kHyperparameters = 3;

  DLRM_RULE explicit Ftrl(const RowStep& s)
      : rate(V::Broadcast(s.learning_rate)),
        l1(V::Broadcast(s.hyperparameters[0])),
        proximal(V::Broadcast(s.hyperparameters[2] + 2.0f * s.hyperparameters[1])) {}
  DLRM_RULE Register Apply(Register row, Register g, Register* states, Register) const {
    Register& accumulator = states[0];
    Register& linear = states[1];
    const Register sum = V::Add(accumulator, V::Multiply(g, g));
    const Register root = V::SquareRoot(sum);
    const Register pull = V::Multiply(V::Subtract(root, V::SquareRoot(accumulator)), row);
    accumulator = sum;
    linear = V::Add(linear, V::Subtract(V::Multiply(rate, g), pull));
    // max(-z - l1, 0) - max(z - l1, 0) = sign(z) * l1 - z, or 0 if |z| <= l1. Adding 0 * z keeps
    // values that are not finite.
    const Register zero = V::Broadcast(0.0f);
    const Register above = V::Subtract(linear, l1);
    const Register below = V::Subtract(V::Subtract(zero, linear), l1);
    const Register rest =
        V::Add(V::Subtract(V::WherePositive(below, below), V::WherePositive(above, above)),
               V::Multiply(zero, linear));
    return V::Where(sum, V::Divide(rest, V::Add(root, proximal)), row);
  }

  Register rate, l1, proximal;
};

// Adam (Kingma and Ba, ICLR 2015, the order at the end of section 2) without the correction of the
// averages' bias, a factor sqrt(1 - beta2^t) / (1 - beta1^t) that is the same for all rows and part
// of the learning rate:
//   m += (g - m) * (1 - beta1);  v += (g^2 - v) * (1 - beta2);
//   row -= learning_rate * m / (sqrt(v) + epsilon).
// A row that does not occur keeps its averages, as in TensorFlow Addons' LazyAdam.
template <class V>
struct Adam {
  using Register = typename V::Register;
  static constexpr const char* kName = "adam";
  static constexpr bool kInOrder = false;
  static constexpr int kColumnStates = 2, kRowStates = 0, kHyperparameters = 3;

  DLRM_RULE explicit Adam(const RowStep& s)
      : rate(V::Broadcast(s.learning_rate)),
        decay1(V::Broadcast(1.0f - s.hyperparameters[0])),
        decay2(V::Broadcast(1.0f - s.hyperparameters[1])),
        epsilon(V::Broadcast(s.hyperparameters[2])) {}
  DLRM_RULE Register Apply(Register row, Register g, Register* states, Register) const {
    Register& m = states[0];
    Register& v = states[1];
    m = V::Add(m, V::Multiply(V::Subtract(g, m), decay1));
    v = V::Add(v, V::Multiply(V::Subtract(V::Multiply(g, g), v), decay2));
    return V::Subtract(row, V::Divide(V::Multiply(rate, m), V::Add(V::SquareRoot(v), epsilon)));
  }

  Register rate, decay1, decay2, epsilon;
};

// A list of rules. A rule's index is its position in the list.
template <template <class> class... Rules>
struct RowRuleList {
  static constexpr int kCount = sizeof...(Rules);

  // Writes the constants of all rules, for any vector type V.
  template <class V>
  static void Facts(RowRuleFacts* facts) {
    ((*facts++ = {Rules<V>::kName, Rules<V>::kInOrder, Rules<V>::kColumnStates,
                  Rules<V>::kRowStates, Rules<V>::kHyperparameters}),
     ...);
    static_assert(((Rules<V>::kColumnStates + Rules<V>::kRowStates <= kMaxRowStates &&
                    Rules<V>::kHyperparameters <= kMaxHyperparameters) &&
                   ...),
                  "a rule has more states or hyper-parameters than an update can pass");
  }
};

using RowRules = RowRuleList<Sgd, Adagrad, RowwiseAdagrad, Ftrl, Adam>;

}  // namespace
}  // namespace dlrm

#undef DLRM_RULE

#endif  // DLRM_OPS_EMBEDDING_ROW_OPTIMIZERS_H_
