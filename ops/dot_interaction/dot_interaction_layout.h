// Layout of the dot interaction's inputs and outputs, shared by the ops, the CPU kernels of every
// instruction set and the CUDA kernels.
//
// B samples of F rows (feature vectors; row 0 is the bottom MLP's output) of D elements. An output
// row holds [row 0 (D) | products of rows i > j, row-major (F (F - 1) / 2) | zeros] and is W
// elements wide, a multiple of 8.
//
// The functions are in an unnamed namespace so that each file that includes this has its own copy,
// compiled with its flags.

#ifndef DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_LAYOUT_H_
#define DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_LAYOUT_H_

#include <stdint.h>

#ifdef __CUDACC__
#define DLRM_HOST_DEVICE __host__ __device__
#else
#define DLRM_HOST_DEVICE
#endif

namespace dlrm {

struct DotInteractionShape {
  int64_t features;   // F: rows of a sample, row 0 included
  int64_t dimension;  // D: elements of a row
  int64_t width;      // W: elements of an output row
};

// Location of a batch's rows: row 0 of sample b at bottom + b * bottom_stride, row i > 0 at
// vectors + b * vectors_stride + (i - 1) * D. Strides are in elements. The slices of one tensor
// [B, F, D] are {data, data + D, F * D, F * D}.
template <class T>
struct FeatureRows {
  T* bottom;
  T* vectors;
  int64_t bottom_stride;
  int64_t vectors_stride;
};

namespace {

// The same rows with another element type, which may be void.
template <class To, class From>
FeatureRows<To> RowsAs(const FeatureRows<From>& rows) {
  return {static_cast<To*>(rows.bottom), static_cast<To*>(rows.vectors), rows.bottom_stride,
          rows.vectors_stride};
}

template <class Integer>
DLRM_HOST_DEVICE constexpr Integer RoundUp(Integer value, int multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

DLRM_HOST_DEVICE constexpr int64_t PairCount(int64_t features) {
  return features * (features - 1) / 2;
}

// Index of the pair (i, j), i > j, among the pairs.
DLRM_HOST_DEVICE constexpr int64_t PairIndex(int64_t i, int64_t j) { return i * (i - 1) / 2 + j; }

DLRM_HOST_DEVICE constexpr int64_t OutputWidth(int64_t features, int64_t dimension) {
  return RoundUp(dimension + PairCount(features), 8);
}

inline bool IsAligned(const void* address, int bytes) {
  return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

// Whether row 0 and row 1 of every sample start at a multiple of `bytes`.
template <class T>
bool IsAligned(const FeatureRows<T>& rows, int bytes) {
  return IsAligned(rows.bottom, bytes) && IsAligned(rows.vectors, bytes) &&
         rows.bottom_stride * sizeof(T) % bytes == 0 &&
         rows.vectors_stride * sizeof(T) % bytes == 0;
}

}  // namespace
}  // namespace dlrm

#endif  // DLRM_OPS_DOT_INTERACTION_DOT_INTERACTION_LAYOUT_H_
