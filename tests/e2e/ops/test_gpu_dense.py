"""The harness's checks and timings of a step's dense part, on the emulated kernels."""

import ctypes
import json
import os
import subprocess

import pytest

from tests.e2e.benchmarks.test_same_model import ROOT, TORCH
from tests.gpu import build, dense_timings, launchers, memory, mlp_checks, table
from tests.gpu.interaction_checks import MismatchError


@pytest.fixture(scope="module")
def library():
    """Returns the emulated launchers, with a stand-in for cuBLASLt in this process."""
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found: the CUDA kernels are not run, even emulated")
    ctypes.CDLL(str(build.build_cublaslt()))
    return launchers.Library(build.build_emulation())


NAMES = [name for name, _ in mlp_checks.checks(None, None, large=False)]


@pytest.mark.parametrize("name", NAMES)
def test_mlp_check_passes_sound_launchers(library, name, rng):
    library.seed_schedule(int(rng.integers(2**63)))
    cases, worst = dict(mlp_checks.checks(library, memory.HostMemory(), False))[name](rng)
    assert cases == len(mlp_checks.cases(False)) and 0 < worst <= 1


class Faulty:
    """A library with another forward or backward launcher."""

    def __init__(self, library, name, change):
        self._library, self._name, self._change = library, name, change

    def __getattr__(self, name):
        function = getattr(self._library, name)
        if name != self._name:
            return function
        return lambda shape, *arguments: function(*self._change(shape, *arguments))


def without_relu(shape, *arguments):
    return launchers.Mlp(
        shape.batch, shape.widths, shape.layers, shape.dtype, 0, shape.tf32
    ), *arguments  # fmt: skip


@pytest.mark.parametrize(
    ("name", "found"), [("mlp_forward", "layer 1: error"), ("mlp_backward", "gradient 1: error")]
)
def test_mlp_check_finds_a_missing_relu(library, name, found, rng):
    faulty = Faulty(library, name, without_relu)
    with pytest.raises(MismatchError, match=found):
        mlp_checks.run_case(
            faulty, memory.HostMemory(), rng, launchers.FLOAT16, False, 40, (48, 64, 8), True, True
        )


@pytest.fixture(scope="module")
def emulated(seed_of):
    """Returns what `tests.support.ops.emulated_dense_timings` prints."""
    if not TORCH.exists():
        pytest.skip(".venv-torch does not exist: `make bench` makes it")
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found")
    done = subprocess.run(
        [TORCH, "-m", "tests.support.ops.emulated_dense_timings", str(seed_of("dense timings"))],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# A ReLU whose input is close to 0 may pass in one of the two only: with 24 samples that changes a
# gradient's norm by some percent in float16.
@pytest.mark.parametrize(("dtype", "limit"), [("float16", 0.2), ("float32", 0.01)])
def test_timed_calls_compute_what_pytorch_does(dtype, limit, emulated):
    found = emulated[dtype]
    assert set(found) == {*dense_timings.MLPS, "log loss"}
    assert all(difference < limit for difference in found.values()), found


def test_timed_updates_compute_what_pytorch_does(emulated):
    # The change is rounded to the weight's bits; our Adam and Adagrad add epsilon elsewhere.
    assert set(emulated["updates"]) == set(launchers.DENSE_OPTIMIZERS)
    assert all(difference < 2e-3 for difference in emulated["updates"].values()), emulated
    assert emulated["finite"] == [1, 0]


def test_dense_timings_run_every_operation_with_its_peer(emulated, capsys):
    results = emulated["timings"]
    assert len(results) == 2 * 4 + 2 * 2 + 3
    for name, entry in results.items():
        assert entry["passed"] and entry["bytes"] > 0 and "torch" in entry, (name, entry)
        assert ("flop" in entry) == ("MLP" in name)
    # Forward: 24 samples; backward: twice that, without the first layer's input gradient.
    forward = 2 * 24 * (13 * 32 + 32 * 16)
    assert results["bottom MLP forward float16"]["flop"] == forward
    backward = 2 * forward - 2 * 24 * 13 * 32
    assert results["bottom MLP backward TF32"]["flop"] == backward
    rate = {"name": "matrix product TF32", "passed": True, "flop_per_s": backward / 2e-3}
    named = [{"name": name, **entry} for name, entry in results.items()]
    table.print_timings({"timings": [rate, *named]})
    lines = capsys.readouterr().out.splitlines()
    shares = lines[next(k for k, line in enumerate(lines) if "PyTorch's TFLOP/s" in line) + 1 :]
    (line,) = [line for line in shares if line.startswith("bottom MLP backward TF32")]
    assert "200.0%" in line
    (line,) = [line for line in shares if line.startswith("bottom MLP backward float16")]
    assert line.split()[-2] == "-"  # its matrix rate was not measured
