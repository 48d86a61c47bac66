// Runs every CPU kernel of every instruction set on buffers of exactly the size that it may access
// and compares the results with the portable kernels. Built with sanitizers (see CMakeLists.txt),
// an access one byte outside a buffer aborts the run.
//
//   kernels_test [SEED]    SEED: of the random inputs, default: a new one each time

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "dot_interaction/dot_interaction_cpu.h"
#include "embedding/embedding_cpu.h"

namespace dlrm {
namespace {

std::mt19937 generator;

template <class T>
T Convert(float value) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return ToBf16(value);
  } else if constexpr (std::is_same_v<T, Half>) {
    return ToHalf(value);
  } else {
    return value;
  }
}

template <class T>
constexpr double kPrecision = std::is_same_v<T, Bf16>   ? 1.0 / 256
                              : std::is_same_v<T, Half> ? 1.0 / 2048
                                                        : 1e-6;

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
  T* data() const { return memory_.get() + offset_; }
  double operator[](int64_t i) const { return ToFloat(memory_.get()[offset_ + i]); }
  int64_t count() const { return count_; }
  std::vector<T> values() { return {data(), data() + count_}; }

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

template <class T, class U>
void ExpectAll(const Elements<T>& found, const U& expected, double relative, double absolute,
               const char* what) {
  for (int64_t i = 0; i < found.count(); ++i) {
    const double value = expected[i];
    Expect(found[i], value, absolute + relative * std::abs(value), what, i);
  }
}

// Compares with the portable kernels, whose values the Python tests check.
template <class T>
void CheckInteraction(const DotInteractionFunctions<T>& functions, int64_t B, int64_t F, int64_t D,
                      bool split, bool over, bool aligned) {
  const int64_t W = (D + F * (F - 1) / 2 + 7) / 8 * 8;
  const DotInteractionShape shape{F, D, W};
  struct Features {
    Elements<T> bottom, rows;
  };
  const auto features = [&] {
    return Features{{split ? B * D : 0, aligned}, {B * (split ? F - 1 : F) * D, aligned}};
  };
  const auto layout = [&](auto* b, auto* r) {
    using E = std::remove_pointer_t<decltype(b)>;
    return split ? FeatureRows<E>{b, r, D, (F - 1) * D} : FeatureRows<E>{r, r + D, F * D, F * D};
  };
  Features in = features(), out = features(), wanted = features();
  Elements<T> gradient(B * W, aligned), output(B * W, aligned), wanted_output(B * W, aligned);
  const auto run = [&](const DotInteractionFunctions<T>& kernels, T* y, Features& dx) {
    const FeatureRows<const T> x =
        layout(static_cast<const T*>(in.bottom.data()), static_cast<const T*>(in.rows.data()));
    const FeatureRows<T> to = layout(dx.bottom.data(), dx.rows.data());
    void* scratch = nullptr;
    if (posix_memalign(&scratch, 64, kernels.scratch_bytes(shape)) != 0) std::abort();
    // Two calls, as from two threads.
    kernels.forward(shape, x, y, 0, B / 2, scratch);
    kernels.forward(shape, x, y, B / 2, B, scratch);
    kernels.backward(shape, x, gradient.data(), to, 0, B / 2, scratch);
    kernels.backward(shape, x, gradient.data(), to, B / 2, B, scratch);
    std::free(scratch);
  };
  run(portable::DotInteraction<T>(), wanted_output.data(), wanted);
  Features& found = over ? in : out;
  run(functions, output.data(), found);
  const double bound = (3 * kPrecision<T> + 1e-6 * D) * 40;
  ExpectAll(output, wanted_output, 0, bound, "output");
  ExpectAll(found.bottom, wanted.bottom, 0, bound, "gradient of the bottom output");
  ExpectAll(found.rows, wanted.rows, 0, bound, "gradient of the vectors");
}

// Bags of 0 to 5 of `rows`, against sums in double precision.
template <class T>
void CheckPooling(const EmbeddingFunctions<float, T>& functions, int64_t D, bool aligned,
                  const Elements<float>& table, const std::vector<int64_t>& rows,
                  const float* factors) {
  const int64_t count = static_cast<int64_t>(rows.size());
  std::vector<int32_t> lengths;
  for (int64_t left = count; left > 0; left -= lengths.back()) {
    lengths.push_back(std::min<int64_t>(left, generator() % 6));
  }
  const int64_t bags = static_cast<int64_t>(lengths.size());
  std::vector<float> factor(bags);
  for (int64_t k = 0; k < bags; ++k) factor[k] = factors[k % count];
  Elements<T> out(bags * D, aligned);
  const bool stream = aligned && D * sizeof(T) % 64 == 0;
  functions.pool(table.data(), D, {rows.data(), count, lengths.data(), factor.data(), bags}, stream,
                 out.data());
  const int64_t* row = rows.data();
  for (int64_t k = 0; k < bags; row += lengths[k++]) {
    for (int64_t d = 0; d < D; ++d) {
      double sum = 0;
      for (int32_t i = 0; i < lengths[k]; ++i) sum += table[row[i] * D + d];
      sum *= factor[k];
      Expect(out[k * D + d], sum, std::abs(sum) * kPrecision<T> + 1e-5, "pooled", k * D + d);
    }
  }
}

template <class T>
void CheckEmbedding(const EmbeddingFunctions<float, T>& functions, int64_t D) {
  constexpr int64_t kRows = 37, kCount = 61;
  for (bool aligned : {true, false}) {
    Elements<float> table(kRows * D, aligned);
    Elements<T> gradients(kCount * D, aligned), out(kCount * D, aligned);
    Elements<float> factors(kCount, aligned);
    std::vector<int64_t> rows(kCount);
    std::vector<uint32_t> next(kCount, kNoUpdate), first, last(kRows, kNoUpdate);
    std::vector<RowUpdate> updates(kCount);
    for (uint32_t k = 0; k < kCount; ++k) {
      rows[k] = generator() % kRows;
      updates[k] = {static_cast<uint32_t>(rows[k]), static_cast<uint32_t>(kCount - 1 - k)};
      if (last[rows[k]] == kNoUpdate) {
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
      Expect(out[i], value, std::abs(value) * kPrecision<T> + 1e-7, "lookup", i);
    }
    CheckPooling(functions, D, aligned, table, rows, factors.data());
    const RowStep step = {0.1f, 0.5f, {1e-3f, 0.25f, 0.5f}};
    for (int run = 0; run < 2 * RowRules::kCount; ++run) {
      const int optimizer = run / 2;
      const RowRuleFacts& facts = FactsOfRowRule(optimizer);
      UpdateChains chains{updates.data(), kCount, nullptr, nullptr, nullptr, 0};
      if (!facts.in_order) {
        chains = {updates.data(), kCount,       nullptr,
                  next.data(),    first.data(), static_cast<int64_t>(first.size())};
      }
      if (run % 2 == 1) chains.factors = factors.data();
      std::vector<std::unique_ptr<Elements<float>>> states;
      std::vector<std::vector<float>> wanted_states;
      std::vector<float> wanted = table.values(), sums(SumFloats(D));
      RowsAndStates<float> variables = {table.data(), {}, D}, expected = {wanted.data(), {}, D};
      for (int s = 0; s < facts.column_states + facts.row_states; ++s) {
        const int64_t size = s < facts.column_states ? kRows * D : kRows;
        states.push_back(std::make_unique<Elements<float>>(size, aligned));
        variables.states[s] = states[s]->data();
        // Of this state the rules take roots.
        const int positive = std::strcmp(facts.name, "adam") == 0 ? 1 : 0;
        for (int64_t i = 0; s == positive && i < size; ++i) {
          variables.states[s][i] = std::abs(variables.states[s][i]) + 0.1f;
        }
        wanted_states.push_back(states[s]->values());
        expected.states[s] = wanted_states[s].data();
      }
      portable::Embedding<float, T>().update[optimizer](expected, chains, gradients.data(), step,
                                                        sums.data());
      functions.update[optimizer](variables, chains, gradients.data(), step, sums.data());
      const double allowed = facts.in_order ? 0 : 1e-5;
      ExpectAll(table, wanted, allowed, allowed, facts.name);
      for (size_t s = 0; s < states.size(); ++s) {
        ExpectAll(*states[s], wanted_states[s], allowed, allowed, "state");
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
  for (int64_t D : {1, 3, 4, 15, 16, 17, 31, 32, 33, 64, 127, 128, 256})
    CheckEmbedding(embedding, D);
}

void CheckFill(FillFunction fill) {
  for (int64_t D : {1, 4, 63, 64, 65, 128}) {
    Elements<float> row(D, false), reference(D, false);
    fill({1, 2}, uint64_t{1} << 40, 3, 0.5f, D, row.data());
    portable::Fill()({1, 2}, uint64_t{1} << 40, 3, 0.5f, D, reference.data());
    for (int64_t d = 0; d < D; ++d) Expect(row[d], reference[d], 0, "initial value", d);
  }
}

#define DLRM_CHECK_SET(set)                                               \
  CheckAll(set::DotInteraction<float>(), set::Embedding<float, float>()); \
  CheckAll(set::DotInteraction<Bf16>(), set::Embedding<float, Bf16>());   \
  CheckAll(set::DotInteraction<Half>(), set::Embedding<float, Half>());   \
  CheckFill(set::Fill());                                                 \
  ++sets

int Run() {
  int sets = 0;
  const auto has = [](const char* name) { return dlrm_select_instruction_set(name) == 0; };
  DLRM_CHECK_SET(portable);
#if defined(DLRM_HAVE_AVX2)
  if (has("avx2")) {
    DLRM_CHECK_SET(avx2);
  }
#endif
#if defined(DLRM_HAVE_AVX512)
  if (has("avx512")) {
    DLRM_CHECK_SET(avx512);
  }
#endif
#if defined(DLRM_HAVE_BF16)
  if (has("bf16")) {
    CheckAll(bf16::DotInteraction(), avx512::Embedding<float, Bf16>());
    ++sets;
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
