// Runs every CPU kernel of every instruction set on buffers of exactly the size that it may access
// and checks the results against double precision. Built with sanitizers (see CMakeLists.txt), an
// access one byte outside a buffer aborts the run.
//
//   kernels_test [SEED]    SEED: of the random inputs, default: a new one each time

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "dot_interaction/dot_interaction_cpu.h"
#include "embedding/embedding_cpu.h"

namespace dlrm {
namespace {

std::mt19937 generator;

template <class T>
T Convert(float value);
template <>
float Convert<float>(float value) {
  return value;
}
template <>
Bf16 Convert<Bf16>(float value) {
  return ToBf16(value);
}
template <>
Half Convert<Half>(float value) {
  return ToHalf(value);
}

template <class T>
double Precision();
template <>
double Precision<float>() {
  return 1e-6;
}
template <>
double Precision<Bf16>() {
  return 1.0 / 256;
}
template <>
double Precision<Half>() {
  return 1.0 / 2048;
}

// Elements that end where the allocation ends. Unless `aligned`, they start at an odd element
// offset, which exposes kernels that assume alignment.
template <class T>
class Elements {
 public:
  Elements(int64_t count, bool aligned) : offset_(aligned ? 0 : 1) {
    const size_t bytes = (count + offset_) * sizeof(T);
    // Not aligned_alloc: it needs a multiple of the alignment, which leaves bytes past the end.
    void* p = nullptr;
    if (posix_memalign(&p, 64, bytes == 0 ? 1 : bytes) != 0) std::abort();
    memory_.reset(static_cast<T*>(p));
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count + offset_; ++i) memory_.get()[i] = Convert<T>(normal(generator));
    count_ = count;
  }
  T* data() { return memory_.get() + offset_; }
  double operator[](int64_t i) { return ToFloat(data()[i]); }
  std::vector<double> values() {
    std::vector<double> all(count_);
    for (int64_t i = 0; i < count_; ++i) all[i] = (*this)[i];
    return all;
  }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t offset_;
  int64_t count_;
};

int64_t checks = 0;

void Expect(double found, double expected, double allowed, const char* what, int64_t index) {
  ++checks;
  if (std::abs(found - expected) <= allowed) return;
  std::printf("%s, element %lld: found %g, expected %g, allowed error %g\n", what,
              static_cast<long long>(index), found, expected, allowed);
  std::exit(1);
}

template <class T>
void CheckInteraction(const DotInteractionFunctions<T>& functions, int64_t B, int64_t F, int64_t D,
                      bool split, bool over, bool aligned) {
  const int64_t pairs = F * (F - 1) / 2, W = (D + pairs + 7) / 8 * 8;
  const DotInteractionShape shape{F, D, W};
  Elements<T> bottom(split ? B * D : 0, aligned), rows(B * (split ? F - 1 : F) * D, aligned);
  Elements<T> gradient(B * W, aligned), output(B * W, aligned);
  Elements<T> bottom_out(split ? B * D : 0, aligned),
      rows_out(B * (split ? F - 1 : F) * D, aligned);
  const auto layout = [&](auto* b, auto* r) {
    using E = std::remove_pointer_t<decltype(b)>;
    return split ? FeatureRows<E>{b, r, D, (F - 1) * D} : FeatureRows<E>{r, r + D, F * D, F * D};
  };
  const FeatureRows<const T> in =
      layout(static_cast<const T*>(bottom.data()), static_cast<const T*>(rows.data()));
  const FeatureRows<T> out =
      over ? layout(bottom.data(), rows.data()) : layout(bottom_out.data(), rows_out.data());
  std::vector<double> x(B * F * D), dx(B * F * D);
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t d = 0; d < D; ++d) {
      x[b * F * D + d] = ToFloat(in.bottom[b * in.bottom_stride + d]);
      dx[b * F * D + d] = gradient[b * W + d];
    }
    for (int64_t i = D; i < F * D; ++i) {
      x[b * F * D + i] = ToFloat(in.vectors[b * in.vectors_stride + i - D]);
    }
  }
  void* scratch = nullptr;
  if (posix_memalign(&scratch, 64, functions.scratch_bytes(shape)) != 0) std::abort();
  // Two calls, as from two threads.
  functions.forward(shape, in, output.data(), 0, B / 2, scratch);
  functions.forward(shape, in, output.data(), B / 2, B, scratch);
  functions.backward(shape, in, gradient.data(), out, 0, B / 2, scratch);
  functions.backward(shape, in, gradient.data(), out, B / 2, B, scratch);
  std::free(scratch);
  const double bound = (3 * Precision<T>() + 1e-6 * D) * 40;
  for (int64_t b = 0; b < B; ++b) {
    const double* sample = x.data() + b * F * D;
    int64_t k = b * W;
    for (int64_t d = 0; d < D; ++d, ++k) Expect(output[k], sample[d], 0, "bottom copy", k);
    for (int64_t i = 1; i < F; ++i) {
      for (int64_t j = 0; j < i; ++j, ++k) {
        double sum = 0;
        for (int64_t d = 0; d < D; ++d) {
          sum += sample[i * D + d] * sample[j * D + d];
          dx[(b * F + i) * D + d] += gradient[k] * sample[j * D + d];
          dx[(b * F + j) * D + d] += gradient[k] * sample[i * D + d];
        }
        Expect(output[k], sum, bound, "pair", k);
      }
    }
    for (; k < (b + 1) * W; ++k) Expect(output[k], 0, 0, "padding", k);
    for (int64_t i = 0; i < F * D; ++i) {
      const T* found = i < D ? out.bottom + b * out.bottom_stride + i
                             : out.vectors + b * out.vectors_stride + i - D;
      Expect(ToFloat(*found), dx[b * F * D + i], bound, "gradient", b * F * D + i);
    }
  }
}

// Updates one row by the sum of its gradients in double precision. Returns false for an optimizer
// whose values only tests/unit/ops/test_row_optimizers.py checks.
bool ApplyInDouble(const std::string& name, const RowStep& step, const std::vector<double>& g,
                   int64_t row, std::vector<double>* rows,
                   std::vector<std::vector<double>>* states) {
  const int64_t D = static_cast<int64_t>(g.size());
  const double rate = step.learning_rate, first = step.hyperparameters[0];
  double mean = 0;
  for (double value : g) mean += value * value / D;
  if (name == "rowwise_adagrad") (*states)[0][row] += mean;
  for (int64_t d = 0; d < D; ++d) {
    double& weight = (*rows)[row * D + d];
    if (name == "rowwise_adagrad") {
      weight -= rate * g[d] / (std::sqrt((*states)[0][row]) + first);
      continue;
    }
    double& accumulator = (*states)[0][row * D + d];
    const double before = std::sqrt(accumulator);
    accumulator += g[d] * g[d];
    const double root = std::sqrt(accumulator);
    if (name == "adagrad") {
      weight -= rate * g[d] / (root + first);
    } else if (name == "ftrl") {
      double& z = (*states)[1][row * D + d];
      z += rate * g[d] - (root - before) * weight;
      const double sign = z < 0 ? -1 : 1;
      weight =
          std::abs(z) <= first
              ? 0
              : (sign * first - z) / (root + step.hyperparameters[2] + 2 * step.hyperparameters[1]);
    } else {
      return false;
    }
  }
  return true;
}

template <class T>
void CheckEmbedding(const EmbeddingFunctions<float, T>& functions, int64_t D) {
  constexpr int64_t kRows = 37, kCount = 61;
  for (bool aligned : {true, false}) {
    Elements<float> table(kRows * D, aligned);
    Elements<T> gradients(kCount * D, aligned), out(kCount * D, aligned);
    std::vector<int64_t> rows(kCount), next(kCount, -1), first, last(kRows, -1);
    std::vector<RowUpdate> updates(kCount);
    for (int64_t k = 0; k < kCount; ++k) {
      rows[k] = generator() % kRows;
      updates[k] = {rows[k], kCount - 1 - k};
      if (last[rows[k]] < 0) {
        first.push_back(k);
      } else {
        next[last[rows[k]]] = k;
      }
      last[rows[k]] = k;
    }
    const bool stream = aligned && D * sizeof(T) % 64 == 0;
    functions.gather(table.data(), D, rows.data(), kCount, stream, out.data());
    for (int64_t i = 0; i < kCount * D; ++i) {
      const double value = table[rows[i / D] * D + i % D];
      Expect(out[i], value, std::abs(value) * Precision<T>() + 1e-7, "lookup", i);
    }
    const RowStep step = {0.1f, 0.5f, {1e-3f, 0.25f, 0.5f}};
    const UpdateChains chains{updates.data(), kCount, next.data(), first.data(),
                              static_cast<int64_t>(first.size())};
    for (int optimizer = 0; optimizer < RowRules::kCount; ++optimizer) {
      const RowRuleFacts& facts = FactsOfRowRule(optimizer);
      std::vector<std::unique_ptr<Elements<float>>> states;
      std::vector<std::vector<double>> wanted_states;
      RowsAndStates<float> variables = {table.data(), {}, D};
      for (int s = 0; s < facts.column_states + facts.row_states; ++s) {
        const int64_t size = s < facts.column_states ? kRows * D : kRows;
        states.push_back(std::make_unique<Elements<float>>(size, aligned));
        variables.states[s] = states[s]->data();
        for (int64_t i = 0; s == 0 && i < size; ++i) {
          variables.states[s][i] = std::abs(variables.states[s][i]) + 0.1f;
        }
        wanted_states.push_back(states[s]->values());
      }
      std::vector<double> wanted = table.values();
      bool known = true;
      if (facts.in_order) {
        std::vector<float> rows_wanted(table.data(), table.data() + kRows * D);
        for (const RowUpdate& update : updates) {
          for (int64_t d = 0; d < D; ++d) {
            rows_wanted[update.row * D + d] -=
                0.05f * ToFloat(gradients.data()[update.gradient * D + d]);
          }
        }
        functions.update[optimizer](variables, {updates.data(), kCount, nullptr, nullptr, 0},
                                    gradients.data(), step, nullptr);
        for (int64_t i = 0; i < kRows * D; ++i) Expect(table[i], rows_wanted[i], 0, facts.name, i);
        continue;
      }
      for (int64_t head : first) {
        const int64_t row = updates[head].row;
        std::vector<double> g(D);
        for (int64_t k = head; k >= 0; k = next[k]) {
          for (int64_t d = 0; d < D; ++d) g[d] += 0.5 * gradients[updates[k].gradient * D + d];
        }
        known = ApplyInDouble(facts.name, step, g, row, &wanted, &wanted_states);
      }
      std::vector<float> sum((D + 15) / 16 * 16);
      functions.update[optimizer](variables, chains, gradients.data(), step, sum.data());
      if (!known) continue;
      for (int64_t i = 0; i < kRows * D; ++i) {
        Expect(table[i], wanted[i], 1e-5 * (1 + std::abs(wanted[i])), facts.name, i);
      }
      for (size_t s = 0; s < states.size(); ++s) {
        for (size_t i = 0; i < wanted_states[s].size(); ++i) {
          const double value = wanted_states[s][i];
          Expect((*states[s])[i], value, 1e-5 * (1 + std::abs(value)), "state", i);
        }
      }
    }
  }
}

template <class T>
void CheckAll(const DotInteractionFunctions<T>& interaction,
              const EmbeddingFunctions<float, T>& embedding) {
  for (int64_t F : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 27, 31, 33, 64}) {
    for (int64_t D : {1, 3, 4, 15, 16, 31, 32, 33, 64, 127, 128, 160, 256}) {
      const int variant = generator() % 8;
      CheckInteraction(interaction, 3, F, D, variant & 1, variant & 2, variant & 4);
    }
  }
  for (int variant = 0; variant < 8; ++variant) {
    CheckInteraction(interaction, 5, 27, 128, variant & 1, variant & 2, variant & 4);
    CheckInteraction(interaction, 5, 10, 21, variant & 1, variant & 2, variant & 4);
  }
  for (int64_t D : {1, 3, 4, 15, 16, 17, 31, 32, 33, 127, 128, 256}) CheckEmbedding(embedding, D);
}

void CheckFill(FillFunction fill) {
  for (int64_t D : {1, 4, 63, 64, 65, 128}) {
    Elements<float> row(D, false), reference(D, false);
    fill({1, 2}, uint64_t{1} << 40, 3, 0.5f, D, row.data());
    portable::Fill()({1, 2}, uint64_t{1} << 40, 3, 0.5f, D, reference.data());
    for (int64_t d = 0; d < D; ++d) Expect(row[d], reference[d], 0, "initial value", d);
  }
}

int Run() {
  int sets = 1;
  const auto has = [](const char* name) { return dlrm_select_instruction_set(name) == 0; };
  CheckAll(portable::DotInteraction<float>(), portable::Embedding<float, float>());
  CheckAll(portable::DotInteraction<Bf16>(), portable::Embedding<float, Bf16>());
  CheckAll(portable::DotInteraction<Half>(), portable::Embedding<float, Half>());
#if defined(DLRM_HAVE_AVX2)
  if (has("avx2")) {
    ++sets;
    CheckAll(avx2::DotInteraction<float>(), avx2::Embedding<float, float>());
    CheckAll(avx2::DotInteraction<Bf16>(), avx2::Embedding<float, Bf16>());
    CheckAll(avx2::DotInteraction<Half>(), avx2::Embedding<float, Half>());
    CheckFill(avx2::Fill());
  }
#endif
#if defined(DLRM_HAVE_AVX512)
  if (has("avx512")) {
    ++sets;
    CheckAll(avx512::DotInteraction<float>(), avx512::Embedding<float, float>());
    CheckAll(avx512::DotInteraction<Bf16>(), avx512::Embedding<float, Bf16>());
    CheckAll(avx512::DotInteraction<Half>(), avx512::Embedding<float, Half>());
    CheckFill(avx512::Fill());
  }
#endif
#if defined(DLRM_HAVE_BF16)
  if (has("bf16")) {
    ++sets;
    CheckAll(bf16::DotInteraction(), avx512::Embedding<float, Bf16>());
  }
#endif
  std::printf("%lld values correct on %d instruction sets\n", static_cast<long long>(checks), sets);
  return 0;
}

}  // namespace
}  // namespace dlrm

int main(int count, char** arguments) {
  const unsigned seed =
      count > 1 ? std::strtoul(arguments[1], nullptr, 10) : std::random_device()();
  std::printf("seed %u\n", seed);
  dlrm::generator.seed(seed);
  return dlrm::Run();
}
