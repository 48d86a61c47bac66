// The functions of mlp_cpu.h for any vector type V (see cpu/vector_portable.h).
//
// Each file that includes this has its own copy (unnamed namespace), compiled with its flags.

#ifndef DLRM_OPS_MLP_MLP_ROWS_H_
#define DLRM_OPS_MLP_MLP_ROWS_H_

#include "cpu/vector_elements.h"
#include "mlp/mlp_cpu.h"

namespace dlrm {
namespace {

template <class V, class S, class C>
void Finish(C* z, int64_t count, bool relu, S* out) {
  const bool copy = out != nullptr && static_cast<const void*>(out) != z;
  for (int64_t i = 0; i < count; i += V::kFloats) {
    const int64_t left = count - i;
    typename V::Register r = LoadUpTo<V>(z + i, left);
    if (relu) r = V::Relu(r);
    if constexpr (sizeof(S) != sizeof(C)) r = Rounded<V, S>(r);
    StoreUpTo<V>(z + i, r, left);
    if (copy) StoreUpTo<V>(out + i, r, left);
  }
}

template <class V, class S, class C>
void Mask(const C* gradient, const S* activation, int64_t rows, int64_t columns, C* out,
          float* sums) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t c = 0; c < columns; c += V::kFloats) {
      const int64_t left = columns - c;
      typename V::Register r = LoadUpTo<V>(gradient + c, left);
      if (activation != nullptr) r = V::WherePositive(LoadUpTo<V>(activation + c, left), r);
      if constexpr (sizeof(S) != sizeof(C)) r = Rounded<V, S>(r);
      StoreUpTo<V>(out + c, r, left);
      StoreUpTo<V>(sums + c, V::Add(LoadUpTo<V>(sums + c, left), r), left);
    }
    gradient += columns;
    out += columns;
    if (activation != nullptr) activation += columns;
  }
}

template <class V, class A, class B>
void Convert(const A* in, int64_t count, B* out) {
  for (int64_t i = 0; i < count; i += V::kFloats) {
    const int64_t left = count - i;
    StoreUpTo<V>(out + i, LoadUpTo<V>(in + i, left), left);
  }
}

template <class V, class S>
void Round(const float* in, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += V::kFloats) {
    const int64_t left = count - i;
    StoreUpTo<V>(out + i, Rounded<V, S>(LoadUpTo<V>(in + i, left)), left);
  }
}

template <class V, class S, class C>
MlpFunctions<S, C> MlpFunctionsOf() {
  return {Finish<V, S, C>, Mask<V, S, C>, Convert<V, S, C>, Convert<V, C, S>, Round<V, S>};
}

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_MLP_MLP_ROWS_H_
