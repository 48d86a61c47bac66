// The functions of cross_cpu.h for any vector type V (see cpu/vector_portable.h).
//
// Each file that includes this has its own copy (unnamed namespace), compiled with its flags.

#ifndef DLRM_OPS_CROSS_CROSS_ROWS_H_
#define DLRM_OPS_CROSS_CROSS_ROWS_H_

#include "cpu/vector_elements.h"
#include "cross/cross_cpu.h"

namespace dlrm {
namespace {

template <class V, class S, class C>
void Combine(const S* x0, const C* z, const C* x, int64_t count, C* out, S* kept, S* y) {
  for (int64_t i = 0; i < count; i += V::kFloats) {
    const int64_t left = count - i;
    typename V::Register r = LoadUpTo<V>(z + i, left);
    if constexpr (sizeof(S) != sizeof(C)) r = Rounded<V, S>(r);
    if (kept != nullptr) StoreUpTo<V>(kept + i, r, left);
    r = V::MultiplyAdd(LoadUpTo<V>(x0 + i, left), r, LoadUpTo<V>(x + i, left));
    if constexpr (sizeof(S) != sizeof(C)) r = Rounded<V, S>(r);
    StoreUpTo<V>(out + i, r, left);
    if (y != nullptr) StoreUpTo<V>(y + i, r, left);
  }
}

template <class V, class S, class C>
void State(const S* x0, const S* const* z, int64_t layers, int64_t count, C* out) {
  for (int64_t i = 0; i < count; i += V::kFloats) {
    const int64_t left = count - i;
    const typename V::Register first = LoadUpTo<V>(x0 + i, left);
    typename V::Register r = first;
    for (int64_t l = 0; l < layers; ++l) {
      r = V::MultiplyAdd(first, LoadUpTo<V>(z[l] + i, left), r);
      if constexpr (sizeof(S) != sizeof(float)) r = Rounded<V, S>(r);
    }
    StoreUpTo<V>(out + i, r, left);
  }
}

template <class V, class S, class C>
void Gradients(const C* g, const C* more, const S* x0, const S* z, int64_t rows, int64_t columns,
               C* sum, C* inner, C* x0_gradient, bool first, float* bias_gradient) {
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t begin = row * columns;
    for (int64_t c = 0; c < columns; c += V::kFloats) {
      const int64_t i = begin + c, left = columns - c;
      typename V::Register r = LoadUpTo<V>(g + i, left);
      if (more != nullptr) r = V::Add(r, LoadUpTo<V>(more + i, left));
      StoreUpTo<V>(sum + i, r, left);
      const typename V::Register z_gradient =
          Rounded<V, S>(V::Multiply(r, LoadUpTo<V>(x0 + i, left)));
      StoreUpTo<V>(inner + i, z_gradient, left);
      StoreUpTo<V>(bias_gradient + c, V::Add(LoadUpTo<V>(bias_gradient + c, left), z_gradient),
                   left);
      const typename V::Register before = first ? V::Zero() : LoadUpTo<V>(x0_gradient + i, left);
      StoreUpTo<V>(x0_gradient + i, V::MultiplyAdd(r, LoadUpTo<V>(z + i, left), before), left);
    }
  }
}

template <class V, class S, class C>
void AddThree(const C* a, const C* b, const C* c, int64_t count, S* out) {
  for (int64_t i = 0; i < count; i += V::kFloats) {
    const int64_t left = count - i;
    const typename V::Register r = V::Add(LoadUpTo<V>(a + i, left), LoadUpTo<V>(b + i, left));
    StoreUpTo<V>(out + i, V::Add(r, LoadUpTo<V>(c + i, left)), left);
  }
}

template <class V, class S, class C>
CrossFunctions<S, C> CrossFunctionsOf() {
  return {Combine<V, S, C>, State<V, S, C>, Gradients<V, S, C>, AddThree<V, S, C>};
}

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_CROSS_CROSS_ROWS_H_
