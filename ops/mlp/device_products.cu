#include "mlp/device_products.h"

// In angle brackets, as in cuda_elements.cuh.
#include <cuda_primitives.cuh>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>

namespace dlrm::gpu::mlp {
namespace {

using cublaslt::Functions;

thread_local char error_line[512] = "";

// Everything that determines a plan, as numbers.
using PlanKey = std::array<int64_t, 19>;

struct Plan {
  explicit Plan(const Functions* cublaslt) : functions(cublaslt) {}
  ~Plan() {
    if (a != nullptr) functions->layout_destroy(a);
    if (b != nullptr) functions->layout_destroy(b);
    if (d != nullptr) functions->layout_destroy(d);
    if (descriptor != nullptr) functions->descriptor_destroy(descriptor);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  const Functions* functions;
  cublaslt::Handle handle = nullptr;
  cublaslt::Descriptor descriptor = nullptr;
  cublaslt::Layout a = nullptr, b = nullptr, d = nullptr;
  cublaslt::Algorithm algorithm = {};
  bool found = false;
  std::mutex mutex;  // the pointers in `descriptor` change from call to call
};

struct Plans {
  std::mutex mutex;
  std::map<int, cublaslt::Handle> handles;  // by device
  std::map<PlanKey, std::unique_ptr<Plan>> plans;
};

// Never destroyed: cuBLASLt may be unloaded before this library at the end of the process.
Plans& all_plans() {
  static auto* plans = new Plans;
  return *plans;
}

cudaDataType_t data_type(int dtype) {
  return dtype == DLRM_FLOAT16 ? CUDA_R_16F : dtype == DLRM_BFLOAT16 ? CUDA_R_16BF : CUDA_R_32F;
}

// The largest power of two that divides the address, at most cuBLASLt's default.
uint32_t alignment(const void* pointer) {
  if (pointer == nullptr) return kLeastAlignment;
  const auto address = reinterpret_cast<uintptr_t>(pointer) | 256;
  return static_cast<uint32_t>(address & (~address + 1));
}

PlanKey key_of(const Product& p, int device) {
  return {device,
          p.m,
          p.n,
          p.k,
          p.lda,
          p.ldb,
          p.ldd,
          p.transpose_a,
          p.transpose_b,
          p.dtype,
          p.result,
          p.tf32,
          p.epilogue,
          p.bits_ld,
          alignment(p.a),
          alignment(p.b),
          alignment(p.d),
          alignment(p.bias),
          alignment(p.bits)};
}

cudaError_t product_failed(cudaError_t code, const Product& p, const char* what, int status) {
  static const char* const kNames[] = {"float32", "float16", "bfloat16"};
  return failed(code,
                "cuBLASLt: %s failed with status %d for a product [%lld, %lld] x [%lld, %lld] of "
                "%s to %s, epilogue %d, leading dimensions %lld, %lld, %lld",
                what, status, static_cast<long long>(p.m), static_cast<long long>(p.k),
                static_cast<long long>(p.k), static_cast<long long>(p.n), kNames[p.dtype],
                kNames[p.result], p.epilogue, static_cast<long long>(p.lda),
                static_cast<long long>(p.ldb), static_cast<long long>(p.ldd));
}

int set_pointers(const Product& p, Plan* plan) {
  const Functions& f = *plan->functions;
  int status = cublaslt::kSuccess;
  if (p.bias != nullptr) {
    status = f.descriptor_set(plan->descriptor, cublaslt::kBiasPointer, &p.bias, sizeof(p.bias));
  }
  if (status == cublaslt::kSuccess && p.bits != nullptr) {
    status = f.descriptor_set(plan->descriptor, cublaslt::kAuxPointer, &p.bits, sizeof(p.bits));
  }
  return status;
}

int describe(const Product& p, Plan* plan) {
  const Functions& f = *plan->functions;
  const cudaDataType_t input = data_type(p.dtype), result = data_type(p.result);
  const int compute =
      p.dtype == DLRM_FLOAT32 && p.tf32 ? cublaslt::kComputeFastTf32 : cublaslt::kComputeFloat32;
  int status = f.descriptor_create(&plan->descriptor, compute, CUDA_R_32F);
  const auto set = [&](int attribute, const auto& value) {
    if (status == cublaslt::kSuccess) {
      status = f.descriptor_set(plan->descriptor, attribute, &value, sizeof(value));
    }
  };
  set(cublaslt::kTransA, int32_t{p.transpose_a ? cublaslt::kTransposed : cublaslt::kPlain});
  set(cublaslt::kTransB, int32_t{p.transpose_b ? cublaslt::kTransposed : cublaslt::kPlain});
  set(cublaslt::kEpilogueOf, static_cast<uint32_t>(p.epilogue));
  if (p.bias != nullptr) set(cublaslt::kBiasDataType, static_cast<int32_t>(result));
  if (p.bits != nullptr) set(cublaslt::kAuxLd, p.bits_ld);
  if (status == cublaslt::kSuccess) status = set_pointers(p, plan);
  const auto layout = [&](cublaslt::Layout* out, cudaDataType_t type, int64_t rows, int64_t columns,
                          int64_t ld) {
    if (status == cublaslt::kSuccess) {
      status = f.layout_create(out, type, static_cast<uint64_t>(rows),
                               static_cast<uint64_t>(columns), ld);
    }
  };
  layout(&plan->a, input, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, p.lda);
  layout(&plan->b, input, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, p.ldb);
  layout(&plan->d, result, p.m, p.n, p.ldd);
  return status;
}

// Searches for an algorithm. Not to find one is no error: `found` stays false.
int search(const Product& p, Plan* plan) {
  const Functions& f = *plan->functions;
  cublaslt::Preference preference = nullptr;
  int status = f.preference_create(&preference);
  if (status != cublaslt::kSuccess) return status;
  const auto set = [&](int attribute, const auto& value) {
    if (status == cublaslt::kSuccess) {
      status = f.preference_set(preference, attribute, &value, sizeof(value));
    }
  };
  set(cublaslt::kMaxWorkspaceBytes, uint64_t{kProductWorkspaceBytes});
  // By default parts of a sum may be rounded to D's type before they are added.
  if (p.result != DLRM_FLOAT32) {
    set(cublaslt::kReductions, uint32_t{cublaslt::kReduceInComputeType});
  }
  set(cublaslt::kMinAlignmentA, alignment(p.a));
  set(cublaslt::kMinAlignmentB, alignment(p.b));
  set(cublaslt::kMinAlignmentC, alignment(p.d));
  set(cublaslt::kMinAlignmentD, alignment(p.d));
  if (status == cublaslt::kSuccess) {
    cublaslt::HeuristicResult result = {};
    int count = 0;
    const int searched = f.heuristic(plan->handle, plan->descriptor, plan->a, plan->b, plan->d,
                                     plan->d, preference, 1, &result, &count);
    plan->found = searched == cublaslt::kSuccess && count > 0 && result.state == cublaslt::kSuccess;
    plan->algorithm = result.algorithm;
    const bool none = searched == cublaslt::kSuccess || searched == cublaslt::kNotSupported ||
                      searched == cublaslt::kInvalidValue;
    if (!none) status = searched;
  }
  f.preference_destroy(preference);
  return status;
}

cudaError_t plan_of(const Product& p, Plan** plan) {
  int device = 0;
  const cudaError_t current = current_device(&device);
  if (current != cudaSuccess) return failed(current, "no current CUDA device: error %d", current);
  const PlanKey key = key_of(p, device);
  Plans& all = all_plans();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const auto known = all.plans.find(key);
  if (known != all.plans.end()) {
    *plan = known->second.get();
    return cudaSuccess;
  }
  char reason[256];
  const Functions* functions = cublaslt::loaded(reason, sizeof(reason));
  if (functions == nullptr) return failed(cudaErrorNotSupported, "%s", reason);
  cublaslt::Handle& handle = all.handles[device];
  if (handle == nullptr) {
    const int status = functions->create(&handle);
    if (status != cublaslt::kSuccess) {
      handle = nullptr;
      return failed(cudaErrorInitializationError,
                    "cuBLASLt: expected a handle for GPU %d, found status %d", device, status);
    }
  }
  auto made = std::make_unique<Plan>(functions);
  made->handle = handle;
  int status = describe(p, made.get());
  if (status != cublaslt::kSuccess) {
    return product_failed(cudaErrorInvalidValue, p, "description", status);
  }
  status = search(p, made.get());
  if (status != cublaslt::kSuccess) {
    return product_failed(cudaErrorUnknown, p, "the search for an algorithm", status);
  }
  *plan = made.get();
  all.plans.emplace(key, std::move(made));
  return cudaSuccess;
}

}  // namespace

cudaError_t has_algorithm(const Product& product, bool* found) {
  Plan* plan = nullptr;
  const cudaError_t status = plan_of(product, &plan);
  *found = status == cudaSuccess && plan->found;
  return status;
}

cudaError_t multiply(const Product& p, void* workspace, cudaStream_t stream) {
  Plan* plan = nullptr;
  const cudaError_t planned = plan_of(p, &plan);
  if (planned != cudaSuccess) return planned;
  if (!plan->found) {
    return product_failed(cudaErrorNotSupported, p, "the search for an algorithm",
                          cublaslt::kNotSupported);
  }
  const float alpha = 1, beta = 0;
  const std::lock_guard<std::mutex> lock(plan->mutex);
  int status = set_pointers(p, plan);
  if (status == cublaslt::kSuccess) {
    status = plan->functions->matmul(plan->handle, plan->descriptor, &alpha, p.a, plan->a, p.b,
                                     plan->b, &beta, p.d, plan->d, p.d, plan->d, &plan->algorithm,
                                     workspace, kProductWorkspaceBytes, stream);
  }
  if (status == cublaslt::kSuccess) return cudaSuccess;
  return product_failed(cudaErrorUnknown, p, "the product", status);
}

cudaError_t failed(cudaError_t code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(error_line, sizeof(error_line), format, arguments);
  va_end(arguments);
  return code;
}

const char* recorded_error() { return error_line; }
void clear_error() { error_line[0] = '\0'; }

}  // namespace dlrm::gpu::mlp
