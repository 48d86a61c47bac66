// The dot interaction of bfloat16 with bfloat16 multiply instructions (VDPBF16PS): two products per
// element of a float32 sum, so twice the rate of the float32 kernels and no conversions. The
// instruction flushes subnormal inputs and results to zero.

#include "cpu/vector_avx512.h"
#include "dot_interaction/dot_interaction_backward.h"

namespace dlrm {
namespace bf16 {
namespace {

using Register = __m512;

constexpr int kColumns = 32;  // of one register, or of two interleaved rows in two registers

__m512bh AsPairs(Register r) { return reinterpret_cast<__m512bh>(r); }

// A mask of the first `count` columns, at most 32.
__mmask32 FirstColumns(int64_t count) {
  return count >= kColumns ? ~__mmask32{0} : static_cast<__mmask32>((uint64_t{1} << count) - 1);
}

// Forward: as for float32, but a piece holds eight columns.
struct Bf16Products {
  using Vector = Avx512Vector;
  using Element = Bf16;
  static constexpr int kColumns = bf16::kColumns;
  static Register LoadColumns(const Bf16* p) {
    return Avx512Vector::Load(reinterpret_cast<const float*>(p));
  }
  static Register LoadFirst(const Bf16* p, int64_t count) {
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(FirstColumns(count), p));
  }
  static Register MultiplyAdd(Register a, Register b, Register sum) {
    return _mm512_dpbf16_ps(sum, AsPairs(a), AsPairs(b));
  }
};

// Backward: one instruction adds the products of rows 2k and 2k + 1, so these rows are interleaved
// first. unpacklo / unpackhi work within 128-bit lanes: of 32 columns, lane l of the low register
// gets columns 8l .. 8l + 3, lane l of the high register columns 8l + 4 .. 8l + 7.
int64_t MatrixStride(int64_t features) { return RoundUp(features, 2); }

size_t InterleavedBytes(const DotInteractionShape& shape) {
  return RoundUp(shape.features, 2) * RoundUp(shape.dimension, kColumns) * sizeof(Bf16);
}

size_t Scratch(const DotInteractionShape& shape) {
  const size_t forward = ForwardScratchBytes<Bf16Products>(shape);
  const size_t matrix = RoundUp(shape.features * MatrixStride(shape.features) * sizeof(Bf16), 64);
  const size_t backward = InterleavedBytes(shape) + matrix;
  return forward > backward ? forward : backward;
}

// Interleaves rows a and b (null: zeros) into RoundUp(D, 32) / 32 pairs of registers at out.
void Interleave(const Bf16* a, const Bf16* b, int64_t dimension, float* out) {
  for (int64_t c = 0; c < dimension; c += kColumns, out += 32) {
    const __mmask32 mask = FirstColumns(dimension - c);
    const __m512i first = _mm512_maskz_loadu_epi16(mask, a + c);
    const __m512i second =
        b == nullptr ? _mm512_setzero_si512() : _mm512_maskz_loadu_epi16(mask, b + c);
    _mm512_store_ps(out, _mm512_castsi512_ps(_mm512_unpacklo_epi16(first, second)));
    _mm512_store_ps(out + 16, _mm512_castsi512_ps(_mm512_unpackhi_epi16(first, second)));
  }
}

// Rounds a low and a high register to bfloat16 and restores the order of their 32 columns.
__m512i Join(Register low, Register high) {
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
  return _mm512_permutexvar_epi64(order, reinterpret_cast<__m512i>(rounded));
}

// Expands packed pairs to a symmetric matrix [F, stride] with a zero diagonal.
void Unpack(const Bf16* pairs, int64_t features, int64_t stride, Bf16* matrix) {
  matrix[0] = Bf16{};
  for (int64_t i = 1; i < features; ++i, pairs += i - 1) {
    Bf16* row = matrix + i * stride;
    Bf16* column = matrix + i;
    for (int64_t j = 0; j < i; ++j) {
      row[j] = pairs[j];
      column[j * stride] = pairs[j];
    }
    row[i] = Bf16{};
  }
}

// Rows [row, row + R), pairs of registers [column / 32, column / 32 + P).
template <int R, int P>
void Block(const Bf16* matrix, int64_t matrix_stride, const float* interleaved, int64_t pair_floats,
           int64_t row, int64_t column, const GradientTarget<Bf16>& target,
           Prefetcher* prefetcher) {
  Register sums[R][2 * P];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < 2 * P; ++c) sums[r][c] = _mm512_setzero_ps();
  }
  const Bf16* factors = matrix + row * matrix_stride;
  const float* p = interleaved + column;
  Prefetcher ahead = *prefetcher;
  for (int64_t j = 0; j < matrix_stride; j += 2, p += pair_floats) {
    ahead.Line();
    __m512bh factor[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      int32_t pair;
      memcpy(&pair, factors + r * matrix_stride + j, sizeof(pair));
      factor[r] = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
    }
#pragma GCC unroll 8
    for (int c = 0; c < 2 * P; ++c) {
      const __m512bh columns = AsPairs(_mm512_load_ps(p + 16 * c));
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], factor[r], columns);
    }
  }
  *prefetcher = ahead;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const bool is_bottom = row + r == 0;
    Bf16* out = target.Row(row + r) + column;
#pragma GCC unroll 8
    for (int c = 0; c < P; ++c) {
      Register low = sums[r][2 * c], high = sums[r][2 * c + 1];
      const __mmask32 mask = FirstColumns(target.dimension - column - c * kColumns);
      if (is_bottom) {
        const __m512i own =
            _mm512_maskz_loadu_epi16(mask, target.bottom_gradient + column + c * kColumns);
        const __m512i zero = _mm512_setzero_si512();
        low = _mm512_add_ps(low, _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, own)));
        high = _mm512_add_ps(high, _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, own)));
      }
      const __m512i joined = Join(low, high);
      if (target.stream) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(out + c * kColumns), joined);
      } else {
        _mm512_mask_storeu_epi16(out + c * kColumns, mask, joined);
      }
    }
  }
}

template <int P>
void Columns(const Bf16* matrix, const float* interleaved, int64_t pair_floats, int64_t features,
             int64_t column, const GradientTarget<Bf16>& target, Prefetcher* prefetcher) {
  const int64_t stride = MatrixStride(features);
  int64_t row = 0;
  for (; row + 3 <= features; row += 3) {
    Block<3, P>(matrix, stride, interleaved, pair_floats, row, column, target, prefetcher);
  }
  for (; row < features; ++row) {
    Block<1, P>(matrix, stride, interleaved, pair_floats, row, column, target, prefetcher);
  }
}

void Backward(const DotInteractionShape& shape, const FeatureRows<const Bf16>& in,
              const Bf16* gradient, const FeatureRows<Bf16>& out, int64_t begin, int64_t end,
              void* scratch) {
  const int64_t F = shape.features, D = shape.dimension;
  const int64_t padded = RoundUp(D, kColumns);
  const int64_t pair_floats = padded;  // two rows of 2-byte elements
  float* interleaved = static_cast<float*>(scratch);
  Bf16* matrix = reinterpret_cast<Bf16*>(static_cast<char*>(scratch) + InterleavedBytes(shape));
  const int64_t matrix_stride = MatrixStride(F);
  memset(matrix, 0, F * matrix_stride * sizeof(Bf16));
  const bool stream = CanStream(shape, in, out);
  for (int64_t b = begin; b < end; ++b) {
    const Bf16* bottom = in.bottom + b * in.bottom_stride;
    const Bf16* vectors = in.vectors + b * in.vectors_stride;
    const Bf16* output_gradient = gradient + b * shape.width;
    Unpack(output_gradient + D, F, matrix_stride, matrix);
    for (int64_t i = 0; i < F; i += 2) {
      const Bf16* first = i == 0 ? bottom : vectors + (i - 1) * D;
      Interleave(first, i + 1 < F ? vectors + i * D : nullptr, D,
                 interleaved + i / 2 * pair_floats);
    }
    Prefetcher prefetcher(vectors + in.vectors_stride);
    const GradientTarget<Bf16> target{out.bottom + b * out.bottom_stride,
                                      out.vectors + b * out.vectors_stride, output_gradient, D,
                                      stream};
    int64_t column = 0;
    for (; column + 4 * kColumns <= padded; column += 4 * kColumns) {
      Columns<4>(matrix, interleaved, pair_floats, F, column, target, &prefetcher);
    }
    for (; column < padded; column += kColumns) {
      Columns<1>(matrix, interleaved, pair_floats, F, column, target, &prefetcher);
    }
  }
  if (stream) _mm_sfence();
}

}  // namespace

DotInteractionFunctions<Bf16> DotInteraction() {
  return {Forward<Bf16Products>, Backward, Scratch};
}

}  // namespace bf16
}  // namespace dlrm
