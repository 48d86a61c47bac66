"""Our declaration of cuBLASLt's interface, compared with NVIDIA's header."""

import os
import pathlib
import re
import shutil
import subprocess
import sysconfig

import pytest

from tests.gpu import build

#: Ours in ops/mlp/cublaslt.h, NVIDIA's.
CONSTANTS = {
    "kSuccess": "CUBLAS_STATUS_SUCCESS",
    "kInvalidValue": "CUBLAS_STATUS_INVALID_VALUE",
    "kNotSupported": "CUBLAS_STATUS_NOT_SUPPORTED",
    "kComputeFloat32": "CUBLAS_COMPUTE_32F",
    "kComputeFastTf32": "CUBLAS_COMPUTE_32F_FAST_TF32",
    "kPlain": "CUBLAS_OP_N",
    "kTransposed": "CUBLAS_OP_T",
    "kTransA": "CUBLASLT_MATMUL_DESC_TRANSA",
    "kTransB": "CUBLASLT_MATMUL_DESC_TRANSB",
    "kEpilogueOf": "CUBLASLT_MATMUL_DESC_EPILOGUE",
    "kBiasPointer": "CUBLASLT_MATMUL_DESC_BIAS_POINTER",
    "kAuxPointer": "CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER",
    "kAuxLd": "CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD",
    "kBiasDataType": "CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE",
    "kEpilogueNone": "CUBLASLT_EPILOGUE_DEFAULT",
    "kEpilogueBias": "CUBLASLT_EPILOGUE_BIAS",
    "kEpilogueReluBias": "CUBLASLT_EPILOGUE_RELU_BIAS",
    "kEpilogueReluAuxBias": "CUBLASLT_EPILOGUE_RELU_AUX_BIAS",
    "kEpilogueDrelu": "CUBLASLT_EPILOGUE_DRELU",
    "kEpilogueBiasGradientA": "CUBLASLT_EPILOGUE_BGRADA",
    "kReduceInComputeType": "CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE",
    "kReductions": "CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK",
    "kMaxWorkspaceBytes": "CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES",
    "kMinAlignmentA": "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES",
    "kMinAlignmentB": "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES",
    "kMinAlignmentC": "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES",
    "kMinAlignmentD": "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES",
}

#: Our function pointer, NVIDIA's function.
FUNCTIONS = {
    "create": "cublasLtCreate",
    "descriptor_create": "cublasLtMatmulDescCreate",
    "descriptor_destroy": "cublasLtMatmulDescDestroy",
    "descriptor_set": "cublasLtMatmulDescSetAttribute",
    "layout_create": "cublasLtMatrixLayoutCreate",
    "layout_destroy": "cublasLtMatrixLayoutDestroy",
    "preference_create": "cublasLtMatmulPreferenceCreate",
    "preference_destroy": "cublasLtMatmulPreferenceDestroy",
    "preference_set": "cublasLtMatmulPreferenceSetAttribute",
    "heuristic": "cublasLtMatmulAlgoGetHeuristic",
    "matmul": "cublasLtMatmul",
}

# Two functions are compatible if their parameters have the same number and sizes, and pointers are
# where the other has pointers.
COMPARISON = """
#include <cstddef>
#include <tuple>
#include <type_traits>
#include <cublasLt.h>
#include "mlp/cublaslt.h"

using namespace dlrm::cublaslt;

template <typename A, typename B>
constexpr bool same_parameter() {
  return sizeof(A) == sizeof(B) && std::is_pointer<A>::value == std::is_pointer<B>::value;
}
template <typename Ours, typename Theirs>
struct Compatible : std::false_type {};
template <typename R, typename... A, typename S, typename... B>
struct Compatible<R (*)(A...), S (*)(B...)> {
  template <bool kSameNumber>
  static constexpr bool check() {
    if constexpr (kSameNumber) {
      return sizeof(R) == sizeof(S) && (same_parameter<A, B>() && ...);
    } else {
      return false;
    }
  }
  static constexpr bool value = check<sizeof...(A) == sizeof...(B)>();
};

static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t), "algorithm");
static_assert(sizeof(HeuristicResult) == sizeof(cublasLtMatmulHeuristicResult_t), "result");
static_assert(offsetof(HeuristicResult, algorithm) ==
                  offsetof(cublasLtMatmulHeuristicResult_t, algo), "result.algorithm");
static_assert(offsetof(HeuristicResult, workspace_bytes) ==
                  offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize), "result.workspace");
static_assert(offsetof(HeuristicResult, state) ==
                  offsetof(cublasLtMatmulHeuristicResult_t, state), "result.state");
"""


def headers():
    """Returns the folders with NVIDIA's header: of pip's packages and of a CUDA toolkit."""
    packages = pathlib.Path(sysconfig.get_path("purelib")) / "nvidia"
    places = [packages / "cublas" / "include", packages / "cu13" / "include"]
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    places += [pathlib.Path(home) / "include" for home in homes if home]
    return [place for place in dict.fromkeys(places) if (place / "cublasLt.h").is_file()]


def compiles(source, folder, include):
    """Returns the compiler's messages, "" if the source compiles."""
    path = folder / "comparison.cc"
    path.write_text(source)
    compiler = os.environ.get("CXX") or shutil.which("g++") or "c++"
    # CUDA's own headers may be elsewhere than cuBLAS's.
    places = ["-isystem", str(include), "-isystem", str(build.cuda_include() or include)]
    command = [compiler, "-fsyntax-only", "-std=c++17", f"-I{build.OPS}", *places, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False).stderr


@pytest.mark.parametrize("include", headers(), ids=str)
def test_interface_is_nvidias(include, tmp_path):
    checks = [
        f'static_assert(int({ours}) == int({theirs}), "{theirs}");'
        for ours, theirs in CONSTANTS.items()
    ] + [
        f'static_assert(Compatible<decltype(Functions::{ours}), decltype(&{theirs})>::value, '
        f'"{theirs}");'
        for ours, theirs in FUNCTIONS.items()
    ]  # fmt: skip
    source = COMPARISON + "\n".join(checks)
    assert compiles(source, tmp_path, include) == ""
    wrong = source.replace("int(kEpilogueDrelu) ==", "int(kEpilogueNone) ==")
    assert "CUBLASLT_EPILOGUE_DRELU" in compiles(wrong, tmp_path, include)


def test_every_constant_and_function_is_compared():
    text = (build.OPS / "mlp" / "cublaslt.h").read_text()
    enums = "".join(part.split("}")[0] for part in text.split("\nenum ")[1:])
    names = re.findall(r"\b(k[A-Z]\w*) =", enums)
    assert sorted(names) == sorted(CONSTANTS)
    table = text.split("struct Functions {")[1].split("\n};")[0]
    assert table.count("(*") == len(FUNCTIONS)
    assert all(f"(*{name})(" in table for name in FUNCTIONS)
