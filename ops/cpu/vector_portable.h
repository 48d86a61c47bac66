// Four floats at a time in plain C++: the vector type of the portable kernels, and the
// documentation of the interface that all vector types have.
//
// A register is a row of 128-bit lanes. Loads take up to kFloats elements and fill the rest with
// zeros; nothing past the given count is read or written. Everything is in an unnamed namespace so
// that each file that includes it has its own copy, compiled with that file's flags.

#ifndef DLRM_OPS_CPU_VECTOR_PORTABLE_H_
#define DLRM_OPS_CPU_VECTOR_PORTABLE_H_

#include <stdint.h>
#include <string.h>

#include "cpu/element_types.h"

namespace dlrm {
namespace {

struct PortableVector {
  // A GCC and Clang vector: one register on processors with 128-bit registers.
  typedef float Register __attribute__((vector_size(16)));
  static constexpr int kFloats = 4;           // floats in a register
  static constexpr int kLanes = 1;            // 128-bit lanes in a register
  static constexpr int kGradientRows = 2;     // register block of the interaction's gradient:
  static constexpr int kGradientColumns = 4;  // rows x registers of columns

  static Register Zero() { return Register{0, 0, 0, 0}; }
  static Register Broadcast(float value) { return Register{value, value, value, value}; }

  // A full register, from an address of any alignment.
  static Register Load(const float* p) {
    Register r;
    memcpy(&r, p, sizeof(r));
    return r;
  }
  static Register Load(const Bf16* p) {
    Register r = Zero();
    for (int i = 0; i < 4; ++i) r[i] = ToFloat(p[i]);
    return r;
  }
  static Register Load(const Half* p) {
    Register r = Zero();
    for (int i = 0; i < 4; ++i) r[i] = ToFloat(p[i]);
    return r;
  }
  static void Store(float* p, Register r) { memcpy(p, &r, sizeof(r)); }
  static void Store(Bf16* p, Register r) {
    for (int i = 0; i < 4; ++i) p[i] = ToBf16(r[i]);
  }
  static void Store(Half* p, Register r) {
    for (int i = 0; i < 4; ++i) p[i] = ToHalf(r[i]);
  }
  // The first `count` elements, 0 < count < kFloats.
  template <class T>
  static Register LoadFirst(const T* p, int64_t count) {
    T padded[4] = {};
    memcpy(padded, p, count * sizeof(T));
    return Load(padded);
  }
  template <class T>
  static void StoreFirst(T* p, Register r, int64_t count) {
    T padded[4];
    Store(padded, r);
    memcpy(p, padded, count * sizeof(T));
  }
  // A streaming store (past the caches) if available; `p` is aligned to the register's size.
  template <class T>
  static void Stream(T* p, Register r) {
    Store(p, r);
  }
  // Makes earlier streaming stores visible to other threads before later stores.
  static void Fence() {}

  static Register Add(Register a, Register b) { return a + b; }
  static Register Subtract(Register a, Register b) { return a - b; }
  static Register Multiply(Register a, Register b) { return a * b; }
  static Register Divide(Register a, Register b) { return a / b; }
  static Register SquareRoot(Register a) {
    for (int i = 0; i < 4; ++i) a[i] = __builtin_sqrtf(a[i]);
    return a;
  }
  // sum + a * b, rounded once or twice.
  static Register MultiplyAdd(Register a, Register b, Register sum) { return sum + a * b; }
  // max(a, 0) if a is finite, else NaN (0 * infinity is NaN).
  static Register Relu(Register a) {
    for (int i = 0; i < 4; ++i) a[i] = (a[i] > 0 ? a[i] : 0) + 0 * a[i];
    return a;
  }
  // value where a > 0, else 0.
  static Register WherePositive(Register a, Register value) {
    for (int i = 0; i < 4; ++i) value[i] = a[i] > 0 ? value[i] : 0;
    return value;
  }
  // a where the condition is not 0 (NaN included), else b.
  static Register Where(Register condition, Register a, Register b) {
    for (int i = 0; i < 4; ++i) a[i] = condition[i] != 0 ? a[i] : b[i];
    return a;
  }
  // The four floats at p in every lane.
  static Register BroadcastLane(const float* p) { return Load(p); }
  // rows[r] lane l <-> rows[l] lane r.
  static void TransposeLanes(Register*) {}
  // out[q][l] = sum of the elements of lane l of sums[q], q < 4, each out[q] of kLanes floats.
  static void SumLanes(const Register* sums, float* const* out) {
    for (int q = 0; q < 4; ++q) {
      *out[q] = (sums[q][0] + sums[q][2]) + (sums[q][1] + sums[q][3]);
    }
  }
};

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_CPU_VECTOR_PORTABLE_H_
