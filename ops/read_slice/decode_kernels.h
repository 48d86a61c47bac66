// The decoding loops, compiled for several instruction sets and chosen at run time.
#ifndef OPS_READ_SLICE_DECODE_KERNELS_H_
#define OPS_READ_SLICE_DECODE_KERNELS_H_

#include <cstdint>

namespace dlrm {

// Dtypes of columns in files.
enum class Stored { kUint8, kInt8, kInt16, kInt32, kHalf, kFloat };

struct DecodeKernels {
  // Decodes rows of `width` values, `stride` bytes apart, into rows `out_stride` values apart.
  void (*to_float)(Stored, const char* in, int64_t stride, int64_t rows, int64_t width, float* out,
                   int64_t out_stride);
  void (*to_int32)(Stored, const char* in, int64_t stride, int64_t rows, int64_t width,
                   int32_t* out, int64_t out_stride);
  // values[i] = log(values[i] + shift), NaN if the logarithm is not finite.
  void (*shifted_log)(float* values, int64_t count, float shift);
  bool (*all_finite)(const float* values, int64_t count);
  // Whether every value is 0 or 1.
  bool (*all_binary)(const float* values, int64_t count);
  // Whether all ids [rows, width], as unsigned numbers, are at most largest[column]. `worst` is
  // scratch [width].
  bool (*all_at_most)(const int32_t* ids, int64_t rows, int64_t width, const uint32_t* largest,
                      uint32_t* worst);
  // Decodes lists of integers to rows of `width` values `out_stride` apart, -1 after the list.
  // List r has the values starts[r] .. starts[r + 1] - 1, at most `width`; `width` values from
  // starts[r] on must be readable. Returns the largest value, as unsigned.
  uint32_t (*lists)(Stored, const char* in, const int64_t* starts, int64_t rows, int64_t width,
                    int32_t* out, int64_t out_stride);
};

const DecodeKernels& PortableDecodeKernels();
const DecodeKernels& Avx2DecodeKernels();

// The fastest kernels that this processor supports.
const DecodeKernels& BestDecodeKernels();

}  // namespace dlrm

#endif  // OPS_READ_SLICE_DECODE_KERNELS_H_
