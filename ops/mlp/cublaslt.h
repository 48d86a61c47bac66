// The part of cuBLASLt's C interface that the MLP uses, and its loading. cuBLASLt is not linked:
// TensorFlow or PyTorch has loaded the release that fits its CUDA, and another one in the process
// would cost memory and could disagree with it. The interface is the same in CUDA 12 and 13;
// tests/e2e/ops/test_cublaslt_interface.py compares it with NVIDIA's headers.
#ifndef DLRM_OPS_MLP_CUBLASLT_H_
#define DLRM_OPS_MLP_CUBLASLT_H_

#include <cuda_runtime_api.h>
#include <library_types.h>
#include <stddef.h>
#include <stdint.h>

namespace dlrm::cublaslt {

// Opaque objects; all functions return a Status.
typedef struct Context* Handle;
typedef struct DescriptorOpaque* Descriptor;  // of a product
typedef struct LayoutOpaque* Layout;          // of a matrix
typedef struct PreferenceOpaque* Preference;  // of a search for an algorithm

enum Status { kSuccess = 0, kInvalidValue = 7, kNotSupported = 15 };

enum ComputeType { kComputeFloat32 = 68, kComputeFastTf32 = 77 };

enum Operation { kPlain = 0, kTransposed = 1 };

// Attributes of a Descriptor; of 4 bytes, or pointers, or int64_t.
enum DescriptorAttribute {
  kTransA = 3,
  kTransB = 4,
  kEpilogueOf = 7,
  kBiasPointer = 8,
  kAuxPointer = 11,
  kAuxLd = 12,
  kBiasDataType = 26
};

// What follows a product. Matrices are column-major: a bias has an element per row of the result,
// and the bits of a ReLU are a column-major matrix with kAuxLd bits per column, a multiple of 128.
enum Epilogue {
  kEpilogueNone = 1,
  kEpilogueBias = 4,
  kEpilogueReluBias = 6,
  kEpilogueReluAuxBias = 134,   // writes bits
  kEpilogueDrelu = 136,         // multiplies by bits
  kEpilogueBiasGradientA = 256  // the bias pointer receives the sums of A over the inner dimension
};

// How parts of a sum over the inner dimension may be added; bits.
enum Reduction { kReduceInComputeType = 2 };

// Attributes of a Preference; uint64_t, then uint32_t.
enum PreferenceAttribute {
  kMaxWorkspaceBytes = 1,
  kReductions = 3,
  kMinAlignmentA = 5,
  kMinAlignmentB = 6,
  kMinAlignmentC = 7,
  kMinAlignmentD = 8
};

struct Algorithm {
  uint64_t data[8];
};

struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  int state;  // Status
  float waves;
  int reserved[4];
};

struct Functions {
  int (*create)(Handle*);
  int (*descriptor_create)(Descriptor*, int compute_type, cudaDataType_t scale_type);
  int (*descriptor_destroy)(Descriptor);
  int (*descriptor_set)(Descriptor, int attribute, const void* value, size_t bytes);
  int (*layout_create)(Layout*, cudaDataType_t, uint64_t rows, uint64_t columns, int64_t ld);
  int (*layout_destroy)(Layout);
  int (*preference_create)(Preference*);
  int (*preference_destroy)(Preference);
  int (*preference_set)(Preference, int attribute, const void* value, size_t bytes);
  int (*heuristic)(Handle, Descriptor, Layout a, Layout b, Layout c, Layout d, Preference,
                   int most_results, HeuristicResult* results, int* count);
  // D = alpha A B + beta C
  int (*matmul)(Handle, Descriptor, const void* alpha, const void* a, Layout, const void* b, Layout,
                const void* beta, const void* c, Layout, void* d, Layout, const Algorithm*,
                void* workspace, size_t workspace_bytes, cudaStream_t);
};

// Returns the functions of the library that the process has loaded. If there is none, or it lacks
// a function, returns NULL, and `error` is one line; a later call looks again.
const Functions* loaded(char* error, size_t error_bytes);

}  // namespace dlrm::cublaslt

#endif  // DLRM_OPS_MLP_CUBLASLT_H_
