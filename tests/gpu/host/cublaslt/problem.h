// What the stand-in keeps of NVIDIA's opaque objects, and the checks of a product.
#ifndef DLRM_TESTS_GPU_HOST_CUBLASLT_PROBLEM_H_
#define DLRM_TESTS_GPU_HOST_CUBLASLT_PROBLEM_H_

#include <cstdarg>
#include <cstdio>
#include <string>

#include "mlp/cublaslt.h"

namespace dlrm::cublaslt {

constexpr int kNotInitialized = 1;

struct StandInHandle {};

struct StandInDescriptor {
  int compute;
  int scale;
  int32_t trans_a = kPlain, trans_b = kPlain, bias_type = -1;
  uint32_t epilogue = kEpilogueNone;
  void* bias = nullptr;
  void* aux = nullptr;
  int64_t aux_ld = 0;
};

struct StandInLayout {
  cudaDataType_t type;
  uint64_t rows, columns;
  int64_t ld;
};

struct StandInPreference {
  uint64_t workspace = 0;
  uint32_t reductions = 7;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

// What an algorithm was found for, in Algorithm::data.
struct Promise {
  uint64_t marker;
  uint64_t shape;         // digest
  uint16_t alignment[6];  // of A, B, C, D, bias, bits
  uint64_t workspace;
  uint64_t reductions;
};
static_assert(sizeof(Promise) <= sizeof(Algorithm), "fits");
constexpr uint64_t kMarker = 0x646c726d6c743133;

inline std::string problem;  // the newest one

__attribute__((format(printf, 2, 3))) inline int refuse(int status, const char* format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(line, sizeof(line), format, arguments);
  va_end(arguments);
  problem = line;
  return status;
}

inline size_t bytes_of(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

inline uint32_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer) | 256;
  return static_cast<uint32_t>(address & (~address + 1));
}

inline bool writes_bits(uint32_t epilogue) { return epilogue == kEpilogueReluAuxBias; }
inline bool reads_bits(uint32_t epilogue) { return epilogue == kEpilogueDrelu; }
inline bool adds_bias(uint32_t epilogue) {
  return epilogue == kEpilogueBias || epilogue == kEpilogueReluBias ||
         epilogue == kEpilogueReluAuxBias;
}
inline bool uses_bias(uint32_t epilogue) {
  return adds_bias(epilogue) || epilogue == kEpilogueBiasGradientA;
}
inline bool has_relu(uint32_t epilogue) {
  return epilogue == kEpilogueReluBias || epilogue == kEpilogueReluAuxBias;
}

struct Problem {
  const StandInDescriptor& op;
  const StandInLayout &a, &b, &c, &d;
  int64_t m() const { return static_cast<int64_t>(d.rows); }
  int64_t n() const { return static_cast<int64_t>(d.columns); }
  int64_t k() const { return static_cast<int64_t>(op.trans_a == kTransposed ? a.rows : a.columns); }

  uint64_t digest() const {
    uint64_t hash = 1469598103934665603u;
    const auto add = [&](uint64_t value) { hash = (hash ^ value) * 1099511628211u; };
    for (const auto* l : {&a, &b, &c, &d}) {
      add(static_cast<uint64_t>(l->type));
      add(l->rows);
      add(l->columns);
      add(static_cast<uint64_t>(l->ld));
    }
    add(static_cast<uint64_t>(op.compute));
    add(static_cast<uint64_t>(op.trans_a));
    add(static_cast<uint64_t>(op.trans_b));
    add(op.epilogue);
    add(static_cast<uint64_t>(op.aux_ld));
    add(static_cast<uint64_t>(op.bias_type));
    return hash;
  }

  // kSuccess, or the status of a problem that cuBLASLt rejects.
  int check() const {
    const struct {
      const char* name;
      const StandInLayout& layout;
    } matrices[] = {{"A", a}, {"B", b}, {"C", c}, {"D", d}};
    for (const auto& matrix : matrices) {
      const auto& l = matrix.layout;
      if (l.rows < 1 || l.columns < 1) {
        return refuse(kInvalidValue, "%s: expected at least one row and column, found [%llu, %llu]",
                      matrix.name, static_cast<unsigned long long>(l.rows),
                      static_cast<unsigned long long>(l.columns));
      }
      if (l.ld < static_cast<int64_t>(l.rows)) {
        return refuse(kInvalidValue, "%s: expected a leading dimension >= %llu rows, found %lld",
                      matrix.name, static_cast<unsigned long long>(l.rows),
                      static_cast<long long>(l.ld));
      }
    }
    const uint64_t a_rows = op.trans_a == kTransposed ? a.columns : a.rows;
    const uint64_t b_rows = op.trans_b == kTransposed ? b.columns : b.rows;
    const uint64_t b_columns = op.trans_b == kTransposed ? b.rows : b.columns;
    if (a_rows != d.rows || static_cast<uint64_t>(k()) != b_rows || b_columns != d.columns ||
        c.rows != d.rows || c.columns != d.columns) {
      return refuse(
          kInvalidValue,
          "shapes do not fit: op(A) [%llu, %lld], op(B) [%llu, %llu], C [%llu, %llu], D "
          "[%llu, %llu]",
          static_cast<unsigned long long>(a_rows), static_cast<long long>(k()),
          static_cast<unsigned long long>(b_rows), static_cast<unsigned long long>(b_columns),
          static_cast<unsigned long long>(c.rows), static_cast<unsigned long long>(c.columns),
          static_cast<unsigned long long>(d.rows), static_cast<unsigned long long>(d.columns));
    }
    const bool input32 = a.type == CUDA_R_32F;
    const bool known = a.type == CUDA_R_32F || a.type == CUDA_R_16F || a.type == CUDA_R_16BF;
    // NVIDIA's table for regular matrices: inputs of one type; results of that type or float32;
    // FAST_TF32 with float32 only.
    if (!known || b.type != a.type || c.type != d.type ||
        (d.type != a.type && d.type != CUDA_R_32F) || op.scale != CUDA_R_32F ||
        (op.compute != kComputeFloat32 && !(op.compute == kComputeFastTf32 && input32))) {
      return refuse(kNotSupported, "types: A %d, B %d, C %d, D %d, scale %d, compute type %d",
                    a.type, b.type, c.type, d.type, op.scale, op.compute);
    }
    const auto e = op.epilogue;
    if (e != kEpilogueNone && !uses_bias(e) && !reads_bits(e)) {
      return refuse(kNotSupported, "the stand-in has no epilogue %u", e);
    }
    if (uses_bias(e) && op.bias == nullptr) {
      return refuse(kInvalidValue, "epilogue %u: expected a bias pointer, found NULL", e);
    }
    if (uses_bias(e) && op.bias_type != -1 && op.bias_type != static_cast<int32_t>(d.type)) {
      return refuse(kNotSupported, "epilogue %u: expected a bias of D's type %d, found %d", e,
                    d.type, op.bias_type);
    }
    if (writes_bits(e) || reads_bits(e)) {
      if (op.aux == nullptr) {
        return refuse(kInvalidValue, "epilogue %u: expected bits, found NULL", e);
      }
      if (op.aux_ld % 128 != 0 || op.aux_ld < static_cast<int64_t>(d.rows)) {
        return refuse(kInvalidValue,
                      "epilogue %u: expected a multiple of 128 bits >= %llu rows, found %lld", e,
                      static_cast<unsigned long long>(d.rows), static_cast<long long>(op.aux_ld));
      }
    }
    return kSuccess;
  }
};

inline Problem problem_of(Descriptor op, Layout a, Layout b, Layout c, Layout d) {
  return {*reinterpret_cast<StandInDescriptor*>(op), *reinterpret_cast<StandInLayout*>(a),
          *reinterpret_cast<StandInLayout*>(b), *reinterpret_cast<StandInLayout*>(c),
          *reinterpret_cast<StandInLayout*>(d)};
}

}  // namespace dlrm::cublaslt

#endif  // DLRM_TESTS_GPU_HOST_CUBLASLT_PROBLEM_H_
