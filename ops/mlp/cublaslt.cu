#include "mlp/cublaslt.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>

namespace dlrm::cublaslt {
namespace {

// The release of the CUDA runtime that this file is compiled with, then the other one.
constexpr const char* kNames[] = {
    CUDART_VERSION >= 13000 ? "libcublasLt.so.13" : "libcublasLt.so.12",
    CUDART_VERSION >= 13000 ? "libcublasLt.so.12" : "libcublasLt.so.13"};

template <typename Function>
bool find(void* library, const char* name, Function* function, const char** missing) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  if (*function == nullptr) *missing = name;
  return *function != nullptr;
}

bool find_all(void* library, Functions* f, const char** missing) {
  return find(library, "cublasLtCreate", &f->create, missing) &&
         find(library, "cublasLtMatmulDescCreate", &f->descriptor_create, missing) &&
         find(library, "cublasLtMatmulDescDestroy", &f->descriptor_destroy, missing) &&
         find(library, "cublasLtMatmulDescSetAttribute", &f->descriptor_set, missing) &&
         find(library, "cublasLtMatrixLayoutCreate", &f->layout_create, missing) &&
         find(library, "cublasLtMatrixLayoutDestroy", &f->layout_destroy, missing) &&
         find(library, "cublasLtMatmulPreferenceCreate", &f->preference_create, missing) &&
         find(library, "cublasLtMatmulPreferenceDestroy", &f->preference_destroy, missing) &&
         find(library, "cublasLtMatmulPreferenceSetAttribute", &f->preference_set, missing) &&
         find(library, "cublasLtMatmulAlgoGetHeuristic", &f->heuristic, missing) &&
         find(library, "cublasLtMatmul", &f->matmul, missing);
}

}  // namespace

const Functions* loaded(char* error, size_t error_bytes) {
  static std::atomic<const Functions*> found{nullptr};
  const Functions* functions = found.load(std::memory_order_acquire);
  if (functions != nullptr) return functions;
  void* library = nullptr;
  const char* name = nullptr;
  for (const char* candidate : kNames) {
    library = dlopen(candidate, RTLD_LAZY | RTLD_NOLOAD);
    name = candidate;
    if (library != nullptr) break;
  }
  if (library == nullptr) {
    std::snprintf(error, error_bytes,
                  "cuBLASLt is not loaded: expected libcublasLt.so.12 or libcublasLt.so.13 in this "
                  "process (TensorFlow and PyTorch load it with the first GPU), found neither");
    return nullptr;
  }
  auto* table = new Functions;  // for the life of the process, like the handle of the library
  const char* missing = nullptr;
  if (!find_all(library, table, &missing)) {
    std::snprintf(error, error_bytes, "%s: expected the function %s, found none of that name", name,
                  missing);
    delete table;
    dlclose(library);
    return nullptr;
  }
  const Functions* expected = nullptr;
  if (!found.compare_exchange_strong(expected, table, std::memory_order_acq_rel)) {
    delete table;  // another thread was faster
    return expected;
  }
  return table;
}

}  // namespace dlrm::cublaslt
