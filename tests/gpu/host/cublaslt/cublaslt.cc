// Stand-in for cuBLASLt on host memory: the functions of ops/mlp/cublaslt.h, with the checks that
// NVIDIA documents. Sums are in float32 and in order. Not a model of speed or of the accuracy of
// tensor cores.
//
// What NVIDIA's library would refuse, or what would be undefined there, makes a call return an
// error status, and dlrm_cublaslt_problem() says why.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "problem.h"

using namespace dlrm::cublaslt;

namespace {

std::mutex mutex;
std::set<uint32_t> refused;
std::map<uint32_t, int64_t> matmuls;  // by epilogue
int64_t heuristics = 0, handles = 0, objects = 0;
bool keeps_nan = false;

void read_environment() {
  static const bool once = [] {
    if (const char* list = std::getenv("DLRM_CUBLASLT_REFUSE")) {
      for (char* at = const_cast<char*>(list); *at != '\0';) {
        refused.insert(static_cast<uint32_t>(std::strtoul(at, &at, 10)));
        while (*at == ',') ++at;
      }
    }
    const char* nan = std::getenv("DLRM_CUBLASLT_RELU_KEEPS_NAN");
    keeps_nan = nan != nullptr && std::strcmp(nan, "1") == 0;
    return true;
  }();
  (void)once;
}

float load(const void* base, cudaDataType_t type, int64_t index) {
  switch (type) {
    case CUDA_R_16F:
      return __half2float(static_cast<const __half*>(base)[index]);
    case CUDA_R_16BF:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(base)[index]);
    default:
      return static_cast<const float*>(base)[index];
  }
}

void store(void* base, cudaDataType_t type, int64_t index, float value) {
  switch (type) {
    case CUDA_R_16F:
      static_cast<__half*>(base)[index] = __float2half_rn(value);
      break;
    case CUDA_R_16BF:
      static_cast<__nv_bfloat16*>(base)[index] = __float2bfloat16_rn(value);
      break;
    default:
      static_cast<float*>(base)[index] = value;
  }
}

float to_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (std::isfinite(value)) bits = (bits + 0x1000u) & 0xffffe000u;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}

// op(matrix) [outer, inner] as float32: element (i, p) at p * outer + i.
std::vector<float> operand(const void* base, const StandInLayout& l, bool transposed, int64_t outer,
                           int64_t inner, bool tf32) {
  std::vector<float> out(static_cast<size_t>(outer * inner));
  for (int64_t p = 0; p < inner; ++p) {
    for (int64_t i = 0; i < outer; ++i) {
      const float value = load(base, l.type, transposed ? i * l.ld + p : p * l.ld + i);
      out[static_cast<size_t>(p * outer + i)] = tf32 ? to_tf32(value) : value;
    }
  }
  return out;
}

// A number as it is after a store.
float rounded(float value, cudaDataType_t type) {
  float stored;
  store(&stored, type, 0, value);
  return load(&stored, type, 0);
}

// Sums have two parts; the first is rounded to D's type where an algorithm may do that.
void multiply(const Problem& p, const void* a, const void* b, void* d, bool rounds_parts) {
  const int64_t m = p.m(), n = p.n(), k = p.k();
  const bool tf32 = p.op.compute == kComputeFastTf32;
  const auto e = p.op.epilogue;
  const auto left = operand(a, p.a, p.op.trans_a == kTransposed, m, k, tf32);
  // op(B) [k, n] as its transpose [n, k].
  const auto right = operand(b, p.b, p.op.trans_b != kTransposed, n, k, tf32);
  std::vector<float> sum(static_cast<size_t>(m));
  for (int64_t j = 0; j < n; ++j) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (int64_t q = 0; q < k; ++q) {
      if (rounds_parts && q == k / 2) {
        for (float& part : sum) part = rounded(part, p.d.type);
      }
      const float factor = right[static_cast<size_t>(q * n + j)];
      const float* column = left.data() + q * m;
      for (int64_t i = 0; i < m; ++i) sum[static_cast<size_t>(i)] += column[i] * factor;
    }
    auto* bits = static_cast<unsigned char*>(p.op.aux) + j * p.op.aux_ld / 8;
    for (int64_t i = 0; i < m; ++i) {
      float value = sum[static_cast<size_t>(i)];
      if (adds_bias(e)) value += load(p.op.bias, p.d.type, i);
      const auto bit = static_cast<unsigned char>(1u << (i % 8));
      if (has_relu(e)) {
        const bool positive = value > 0 || (keeps_nan && std::isnan(value));
        if (!positive) value = 0;
        if (writes_bits(e)) {
          bits[i / 8] =
              static_cast<unsigned char>(positive ? bits[i / 8] | bit : bits[i / 8] & ~bit);
        }
      }
      if (reads_bits(e) && (bits[i / 8] & bit) == 0) value = 0;
      store(d, p.d.type, j * p.d.ld + i, value);
    }
  }
  if (e == kEpilogueBiasGradientA) {
    for (int64_t i = 0; i < m; ++i) {
      float total = 0;
      for (int64_t q = 0; q < k; ++q)
        total += load(a, p.a.type, p.op.trans_a == kTransposed ? i * p.a.ld + q : q * p.a.ld + i);
      store(p.op.bias, p.d.type, i, total);
    }
  }
}

// Temporary memory that an algorithm claims: some shapes more than none.
uint64_t claimed_workspace(const Problem& p) { return p.k() > 64 ? uint64_t{1} << 20 : 0; }

template <typename Object>
int destroy(void* object) {
  const std::lock_guard<std::mutex> lock(mutex);
  --objects;
  delete static_cast<Object*>(object);
  return kSuccess;
}

template <typename Value>
int assign(Value* target, const void* value, size_t bytes) {
  if (bytes != sizeof(Value)) {
    return refuse(kInvalidValue, "attribute: expected %zu bytes, found %zu", sizeof(Value), bytes);
  }
  std::memcpy(target, value, bytes);
  return kSuccess;
}

}  // namespace

extern "C" {

int cublasLtCreate(Handle* handle) {
  const std::lock_guard<std::mutex> lock(mutex);
  read_environment();
  ++handles;
  *handle = reinterpret_cast<Handle>(new StandInHandle);
  return kSuccess;
}

int cublasLtMatmulDescCreate(Descriptor* out, int compute, cudaDataType_t scale) {
  const std::lock_guard<std::mutex> lock(mutex);
  ++objects;
  auto* made = new StandInDescriptor;
  made->compute = compute;
  made->scale = scale;
  *out = reinterpret_cast<Descriptor>(made);
  return kSuccess;
}
int cublasLtMatmulDescDestroy(Descriptor object) { return destroy<StandInDescriptor>(object); }

int cublasLtMatmulDescSetAttribute(Descriptor object, int attribute, const void* value,
                                   size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  auto* op = reinterpret_cast<StandInDescriptor*>(object);
  switch (attribute) {
    case kTransA:
      return assign(&op->trans_a, value, bytes);
    case kTransB:
      return assign(&op->trans_b, value, bytes);
    case kEpilogueOf:
      return assign(&op->epilogue, value, bytes);
    case kBiasPointer:
      return assign(&op->bias, value, bytes);
    case kAuxPointer:
      return assign(&op->aux, value, bytes);
    case kAuxLd:
      return assign(&op->aux_ld, value, bytes);
    case kBiasDataType:
      return assign(&op->bias_type, value, bytes);
    default:
      return refuse(kInvalidValue, "the stand-in has no descriptor attribute %d", attribute);
  }
}

int cublasLtMatrixLayoutCreate(Layout* out, cudaDataType_t type, uint64_t rows, uint64_t columns,
                               int64_t ld) {
  const std::lock_guard<std::mutex> lock(mutex);
  ++objects;
  *out = reinterpret_cast<Layout>(new StandInLayout{type, rows, columns, ld});
  return kSuccess;
}
int cublasLtMatrixLayoutDestroy(Layout object) { return destroy<StandInLayout>(object); }

int cublasLtMatmulPreferenceCreate(Preference* out) {
  const std::lock_guard<std::mutex> lock(mutex);
  ++objects;
  *out = reinterpret_cast<Preference>(new StandInPreference);
  return kSuccess;
}
int cublasLtMatmulPreferenceDestroy(Preference object) {
  return destroy<StandInPreference>(object);
}

int cublasLtMatmulPreferenceSetAttribute(Preference object, int attribute, const void* value,
                                         size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  auto* preference = reinterpret_cast<StandInPreference*>(object);
  if (attribute == kMaxWorkspaceBytes) return assign(&preference->workspace, value, bytes);
  if (attribute == kReductions) return assign(&preference->reductions, value, bytes);
  if (attribute >= kMinAlignmentA && attribute <= kMinAlignmentD) {
    return assign(&preference->alignment[attribute - kMinAlignmentA], value, bytes);
  }
  return refuse(kInvalidValue, "the stand-in has no preference attribute %d", attribute);
}

int cublasLtMatmulAlgoGetHeuristic(Handle handle, Descriptor op, Layout a, Layout b, Layout c,
                                   Layout d, Preference preference_object, int most,
                                   HeuristicResult* results, int* count) {
  const std::lock_guard<std::mutex> lock(mutex);
  ++heuristics;
  *count = 0;
  if (handle == nullptr) return refuse(kNotInitialized, "heuristic: expected a handle");
  if (most < 1) return refuse(kInvalidValue, "heuristic: expected room for a result");
  const Problem p = problem_of(op, a, b, c, d);
  const int status = p.check();
  if (status != kSuccess) return status;
  if (refused.count(p.op.epilogue) > 0) return kNotSupported;
  const auto* preference = reinterpret_cast<StandInPreference*>(preference_object);
  Promise promise = {kMarker, p.digest(), {}, claimed_workspace(p), preference->reductions};
  if (promise.workspace > preference->workspace) return kNotSupported;
  for (int i = 0; i < 4; ++i) {
    promise.alignment[i] = static_cast<uint16_t>(preference->alignment[i]);
  }
  promise.alignment[4] = static_cast<uint16_t>(alignment_of(p.op.bias));
  promise.alignment[5] = static_cast<uint16_t>(alignment_of(p.op.aux));
  *results = {};
  std::memcpy(results->algorithm.data, &promise, sizeof(promise));
  results->workspace_bytes = promise.workspace;
  *count = 1;
  return kSuccess;
}

int cublasLtMatmul(Handle handle, Descriptor op, const void* alpha, const void* a, Layout a_layout,
                   const void* b, Layout b_layout, const void* beta, const void* c, Layout c_layout,
                   void* d, Layout d_layout, const Algorithm* algorithm, void* workspace,
                   size_t workspace_bytes, cudaStream_t) {
  const std::lock_guard<std::mutex> lock(mutex);
  if (handle == nullptr) return refuse(kNotInitialized, "product: expected a handle");
  const Problem p = problem_of(op, a_layout, b_layout, c_layout, d_layout);
  const int status = p.check();
  if (status != kSuccess) return status;
  if (*static_cast<const float*>(alpha) != 1 || *static_cast<const float*>(beta) != 0) {
    return refuse(kNotSupported, "the stand-in has alpha 1 and beta 0 only");
  }
  Promise promise;
  if (algorithm == nullptr) return refuse(kInvalidValue, "product: expected an algorithm");
  std::memcpy(&promise, algorithm->data, sizeof(promise));
  if (promise.marker != kMarker || promise.shape != p.digest()) {
    return refuse(kInvalidValue, "product: the algorithm is not for this problem");
  }
  const struct {
    const char* name;
    const void* pointer;
    size_t element;
  } pointers[] = {{"A", a, bytes_of(p.a.type)},
                  {"B", b, bytes_of(p.b.type)},
                  {"C", c, bytes_of(p.c.type)},
                  {"D", d, bytes_of(p.d.type)},
                  {"bias", uses_bias(p.op.epilogue) ? p.op.bias : nullptr, bytes_of(p.d.type)},
                  {"bits", p.op.aux_ld != 0 ? p.op.aux : nullptr, 16}};
  for (int i = 0; i < 6; ++i) {
    if (i < 4 && pointers[i].pointer == nullptr) {
      return refuse(kInvalidValue, "product: expected %s, found NULL", pointers[i].name);
    }
    const auto needed = std::max<size_t>(promise.alignment[i], pointers[i].element);
    if (reinterpret_cast<uintptr_t>(pointers[i].pointer) % needed != 0) {
      return refuse(kInvalidValue, "product: expected %s at a multiple of %zu bytes, found %p",
                    pointers[i].name, needed, pointers[i].pointer);
    }
  }
  if (workspace_bytes < promise.workspace || (promise.workspace > 0 && workspace == nullptr)) {
    return refuse(kInvalidValue, "product: expected %llu bytes of workspace, found %zu",
                  static_cast<unsigned long long>(promise.workspace), workspace_bytes);
  }
  if (reinterpret_cast<uintptr_t>(workspace) % 256 != 0) {
    return refuse(kInvalidValue, "product: expected a workspace at a multiple of 256 bytes");
  }
  if (promise.workspace > 0) std::memset(workspace, 0xff, promise.workspace);
  multiply(p, a, b, d, (promise.reductions & ~uint64_t{kReduceInComputeType}) != 0);
  ++matmuls[p.op.epilogue];
  return kSuccess;
}

// For tests.

// The newest problem since dlrm_cublaslt_reset, "" if there was none.
const char* dlrm_cublaslt_problem() { return problem.c_str(); }

// From now on the heuristic finds nothing for this epilogue. Plans made earlier stay.
void dlrm_cublaslt_refuse(uint32_t epilogue) {
  const std::lock_guard<std::mutex> lock(mutex);
  refused.insert(epilogue);
}

void dlrm_cublaslt_relu_keeps_nan(int keeps) {
  const std::lock_guard<std::mutex> lock(mutex);
  keeps_nan = keeps != 0;
}

int64_t dlrm_cublaslt_heuristics() { return heuristics; }
int64_t dlrm_cublaslt_handles() { return handles; }
// Descriptors, layouts and preferences that were not destroyed.
int64_t dlrm_cublaslt_objects() { return objects; }
int64_t dlrm_cublaslt_products(uint32_t epilogue) {
  const std::lock_guard<std::mutex> lock(mutex);
  return matmuls[epilogue];
}

// Clears counts (except of objects), refusals and the problem.
void dlrm_cublaslt_reset() {
  const std::lock_guard<std::mutex> lock(mutex);
  problem.clear();
  refused.clear();
  matmuls.clear();
  heuristics = handles = 0;
  keeps_nan = false;
}

}  // extern "C"
