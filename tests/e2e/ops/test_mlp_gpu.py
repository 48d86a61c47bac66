"""The MLP's GPU launchers on the emulated GPU, with a stand-in for cuBLASLt."""

import ctypes
import itertools
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.gpu import build, launchers, memory, reference
from tests.gpu.launchers import BFLOAT16, FLOAT16, FLOAT32
from tests.gpu.mlp_problem import Problem

INVALID_VALUE, NOT_SUPPORTED = 1, 801  # cudaError_t

# Epilogues, as in ops/mlp/cublaslt.h.
NONE, BIAS, RELU_BIAS, RELU_AUX_BIAS, DRELU, BGRADA = 1, 4, 6, 134, 136, 256

#: Epilogues that cuBLASLt refuses.
REFUSALS = {
    "nothing": (),
    "everything": (BIAS, RELU_BIAS, RELU_AUX_BIAS, DRELU, BGRADA),
    "writing bits": (RELU_AUX_BIAS,),
    "reading bits": (DRELU,),
    "bias gradients": (BGRADA,),
}

SHAPES = [
    (13, 64, 32, 16),
    (48, 64, 8),
    (13, 5),
    (1, 1, 1),
    (7, 33, 130, 3),
    (16, 24),
]


class CublasLt:
    """The stand-in, loaded in this process."""

    def __init__(self):
        self._library = ctypes.CDLL(str(build.build_cublaslt()))
        self._library.dlrm_cublaslt_problem.restype = ctypes.c_char_p
        for name in ("heuristics", "handles", "objects", "products"):
            getattr(self._library, f"dlrm_cublaslt_{name}").restype = ctypes.c_int64

    def reset(self, refused=(), keeps_nan=False):
        self._library.dlrm_cublaslt_reset()
        for epilogue in refused:
            self._library.dlrm_cublaslt_refuse(epilogue)
        self._library.dlrm_cublaslt_relu_keeps_nan(keeps_nan)

    def count(self, name):
        return getattr(self._library, f"dlrm_cublaslt_{name}")()

    def products(self):
        """Returns {epilogue: products}, without zeros."""
        epilogues = (NONE, BIAS, RELU_BIAS, RELU_AUX_BIAS, DRELU, BGRADA)
        counts = {e: self._library.dlrm_cublaslt_products(e) for e in epilogues}
        return {epilogue: count for epilogue, count in counts.items() if count}

    def problem(self):
        return self._library.dlrm_cublaslt_problem().decode()


@pytest.fixture(scope="module")
def built():
    """Returns (path of the emulated launchers, the stand-in)."""
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found: the CUDA kernels are not run, even emulated")
    return build.build_emulation(), CublasLt()


@pytest.fixture
def cublaslt(built):
    built[1].reset()
    return built[1]


@pytest.fixture(scope="module")
def libraries(built, tmp_path_factory):
    """Returns a function of a key: launchers of their own, without plans when first asked for."""
    made = {}

    def library(key):
        if key not in made:
            copy = tmp_path_factory.mktemp("launchers") / "libdlrm_cuda_kernels.so"
            shutil.copyfile(built[0], copy)
            made[key] = launchers.Library(copy)
        return made[key]

    return library


def fused_layers(problem, refused, training=True):
    """Returns, per layer, whether cuBLASLt adds the bias."""

    def fused(layer):
        last = layer + 1 == problem.layers
        if training and not last and not {RELU_AUX_BIAS, DRELU} & set(refused):
            return True
        return (RELU_BIAS if not last or problem.last_relu else BIAS) not in refused

    return [fused(layer) for layer in range(problem.layers)]


def require_equal(found, expected):
    np.testing.assert_array_equal(found.y, expected.y)
    for ours, theirs in zip(found.hidden, expected.hidden):
        np.testing.assert_array_equal(ours, theirs)
    if found.kernel_gradients is not None:
        for ours, theirs in zip(found.kernel_gradients, expected.kernel_gradients):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(found.bias_gradients, expected.bias_gradients):
            np.testing.assert_array_equal(ours, theirs)
    if found.x_gradient is not None:
        np.testing.assert_array_equal(found.x_gradient, expected.x_gradient)


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("dtype", launchers.DTYPE_NAMES, ids=launchers.DTYPE_NAMES.get)
def test_results_equal_float64(libraries, cublaslt, dtype, refusal, rng):
    refused = REFUSALS[refusal]
    cublaslt.reset(refused)
    library = libraries(refusal)
    library.seed_schedule(int(rng.integers(2**63)))
    device = memory.HostMemory()
    for widths, last_relu in itertools.product(SHAPES, (False, True)):
        batch = int(rng.choice([1, 2, 33, 150]))
        input_gradient = bool(rng.integers(2))
        problem = Problem(library, device, rng, batch, widths, dtype, last_relu).prepare()
        results = problem.backward(problem.forward(), input_gradient)
        require_equal(results, problem.expected(fused_layers(problem, refused)))
        assert cublaslt.problem() == ""
        assert not set(cublaslt.products()) & set(refused)


@pytest.mark.parametrize("refusal", ["nothing", "everything"])
@pytest.mark.parametrize("dtype", launchers.DTYPE_NAMES, ids=launchers.DTYPE_NAMES.get)
def test_inference_keeps_nothing(libraries, cublaslt, dtype, refusal, rng):
    cublaslt.reset(REFUSALS[refusal])
    for widths, last_relu in itertools.product(SHAPES, (False, True)):
        problem = Problem(
            libraries(refusal), memory.HostMemory(), rng, 21, widths, dtype, last_relu
        ).prepare()
        fused = fused_layers(problem, REFUSALS[refusal], training=False)
        require_equal(problem.forward(training=False), problem.expected(fused))
    assert RELU_AUX_BIAS not in cublaslt.products()


@pytest.mark.parametrize("dtype", launchers.DTYPE_NAMES, ids=launchers.DTYPE_NAMES.get)
def test_weights_may_be_anywhere(libraries, cublaslt, dtype, rng):
    """Kernels, biases and their gradients in one buffer are aligned to their elements only."""
    for widths in SHAPES:
        problem = Problem(libraries("nothing"), memory.HostMemory(), rng, 9, widths, dtype)
        results = problem.prepare(weight_offset=4).forward()
        require_equal(problem.backward(results), problem.expected([True] * problem.layers))
    assert cublaslt.problem() == ""


@pytest.mark.parametrize("last_relu", [False, True])
def test_gradients_of_an_empty_batch_are_zero(libraries, cublaslt, last_relu, rng):
    problem = Problem(
        libraries("nothing"), memory.HostMemory(), rng, 0, (13, 16, 4), FLOAT16, last_relu
    ).prepare()
    results = problem.backward(problem.forward())
    for gradient in [*results.kernel_gradients, *results.bias_gradients]:
        np.testing.assert_array_equal(gradient, 0)
    assert cublaslt.products() == {}


def test_plans_are_made_once(libraries, cublaslt, rng):
    library, device = libraries(object()), memory.HostMemory()

    def step():
        problem = Problem(library, device, rng, 16, (13, 32, 16, 8), FLOAT16, True).prepare()
        problem.backward(problem.forward())

    step()
    planned, objects = cublaslt.count("heuristics"), cublaslt.count("objects")
    # A search for every product, and two per hidden layer for pointers that are not known yet.
    assert 9 <= planned <= 9 + 4 and cublaslt.count("handles") == 1
    step()
    assert cublaslt.count("heuristics") == planned and cublaslt.count("handles") == 1
    assert cublaslt.count("objects") == objects


@pytest.mark.parametrize(
    ("widths", "last_relu", "input_gradient", "forward", "backward"),
    [
        # Bottom MLP: the input is padded; mask and copy of the first kernel's gradient.
        ((13, 32, 16, 8), True, False, 1 + 3, 2 + 5),
        # Top MLP without its last layer, after the loss has masked the gradient.
        ((48, 32, 32, 16, 8), False, True, 1 + 4, 8),
    ],
)
def test_a_step_takes_few_kernels(
    libraries, cublaslt, rng, widths, last_relu, input_gradient, forward, backward
):
    """Counts our kernels and cuBLASLt's products."""
    library = libraries("nothing")
    problem = Problem(library, memory.HostMemory(), rng, 16, widths, FLOAT16, last_relu).prepare()

    def kernels():
        return library.launches() + sum(cublaslt.products().values())

    before = kernels()
    results = problem.forward()
    between = kernels()
    problem.backward(results, input_gradient)
    assert (between - before, kernels() - between) == (forward, backward)


def test_tf32_rounds_operands_of_float32_only(libraries, cublaslt, rng):
    widths, batch = (24, 16), 8

    def run(tf32):
        problem = Problem(
            libraries("nothing"), memory.HostMemory(), rng, batch, widths, FLOAT32, tf32=tf32
        )
        problem.x = reference.from_storage(rng.standard_normal(problem.x.shape), FLOAT32)
        problem.kernels = [rng.standard_normal(widths).astype(np.float32)]
        y = problem.prepare().forward().y
        exact = [problem.x.astype(np.float32), problem.kernels[0]]
        coarse = [
            ((array.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32) for array in exact
        ]
        x, kernel = (array.astype(np.float64) for array in (coarse if tf32 else exact))
        tolerance = 30 * 2.0**-24 * (np.abs(x) @ np.abs(kernel) + np.abs(problem.biases[0]))
        error = np.abs(y - (x @ kernel + problem.biases[0]))
        assert (error <= tolerance).all()
        return np.abs(y - (problem.x @ problem.kernels[0] + problem.biases[0])).max()

    assert run(tf32=False) < 1e-5 < run(tf32=True)


@pytest.mark.parametrize("keeps_nan", [False, True])
@pytest.mark.parametrize("refusal", ["nothing", "everything"])
def test_nan_reaches_a_weight_gradient(libraries, cublaslt, refusal, keeps_nan, rng):
    cublaslt.reset(REFUSALS[refusal], keeps_nan)
    problem = Problem(libraries(refusal), memory.HostMemory(), rng, 6, (16, 32, 8), BFLOAT16, True)
    problem.x[3, 5] = np.nan
    problem.prepare()
    results = problem.backward(problem.forward())
    assert np.isnan(results.kernel_gradients[0][5]).all()
    if refusal == "everything" or keeps_nan:
        assert np.isnan(results.hidden[0][3]).all()
    else:
        assert not np.isnan(results.hidden[0]).any()


def test_invalid_calls_are_refused_with_a_reason(libraries, cublaslt, rng):
    library, device = libraries("nothing"), memory.HostMemory()

    def refused(function, *arguments, code=INVALID_VALUE):
        with pytest.raises(launchers.CudaError) as caught:
            getattr(library, function)(*arguments)
        assert caught.value.code == code
        return library.mlp_error()

    size = ctypes.byref(ctypes.c_size_t())
    for shape, reason in (
        (launchers.Mlp.of(-1, [4, 4], FLOAT16), "batch -1, 1 layers"),
        (launchers.Mlp.of(1, [4], FLOAT16), "batch 1, 0 layers"),
        (launchers.Mlp.of(1, [4, 0, 4], FLOAT16), "widths[1] = 0"),
        (launchers.Mlp.of(1, [4, 4], 3), "found 3"),
    ):
        assert reason in refused("mlp_saved_bytes", shape, size)
        assert reason in refused("mlp_workspace_bytes", shape, size)
    problem = Problem(library, device, rng, 4, (8, 16, 8), FLOAT16).prepare()
    problem._workspace_bytes -= 1
    with pytest.raises(launchers.CudaError):
        problem.forward()
    assert f"found {problem._workspace_bytes}" in library.mlp_error()
    problem = Problem(library, device, rng, 4, (8, 16, 8), FLOAT16).prepare()
    problem._x = device.upload(reference.to_storage(problem.x, FLOAT16), 2)
    with pytest.raises(launchers.CudaError):
        problem.forward()
    assert "expected x at a multiple of 16 bytes" in library.mlp_error()
    problem.prepare().forward()
    assert library.mlp_error() == ""


def test_products_that_cublaslt_cannot_do_are_reported(libraries, cublaslt, rng):
    cublaslt.reset([NONE, *REFUSALS["everything"]])
    problem = Problem(libraries(object()), memory.HostMemory(), rng, 4, (8, 16), FLOAT16)
    with pytest.raises(launchers.CudaError) as caught:
        problem.prepare().forward()
    assert caught.value.code == NOT_SUPPORTED
    message = problem.library.mlp_error()
    assert "[16, 8] x [8, 4] of float16" in message and "\n" not in message


def test_a_process_without_cublaslt_is_refused(built):
    """In another process: this one has loaded the stand-in."""
    code = (
        "import numpy as np; from tests.gpu import launchers, memory; "
        "from tests.gpu.mlp_problem import Problem; "
        f"library = launchers.Library({str(built[0])!r}); "
        "problem = Problem(library, memory.HostMemory(), np.random.default_rng(0), 4, (8, 4), 1)\n"
        "try: problem.prepare().forward()\n"
        "except launchers.CudaError as error: print(error.code, library.mlp_error())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=build.ROOT, capture_output=True, text=True, timeout=100,
        check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"{NOT_SUPPORTED} cuBLASLt is not loaded: expected libcublasLt")
    assert len(done.stdout.splitlines()) == 1
