// Loads, stores and rounding of the last, partial register of a row, for any vector type V (see
// vector_portable.h).

#ifndef DLRM_OPS_CPU_VECTOR_ELEMENTS_H_
#define DLRM_OPS_CPU_VECTOR_ELEMENTS_H_

#include <stdint.h>

namespace dlrm {
namespace {

template <class V, class T>
typename V::Register LoadUpTo(const T* p, int64_t left) {
  return left >= V::kFloats ? V::Load(p) : V::LoadFirst(p, left);
}
template <class V, class T>
void StoreUpTo(T* p, typename V::Register r, int64_t left) {
  if (left >= V::kFloats) {
    V::Store(p, r);
  } else {
    V::StoreFirst(p, r, left);
  }
}

// r rounded to values of S.
template <class V, class S>
typename V::Register Rounded(typename V::Register r) {
  if constexpr (sizeof(S) == sizeof(float)) return r;
  S held[V::kFloats];
  V::Store(held, r);
  return V::Load(held);
}

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_CPU_VECTOR_ELEMENTS_H_
