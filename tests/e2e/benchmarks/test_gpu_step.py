"""The GPU step on the emulated kernels, compared with PyTorch's autograd."""

import json
import os
import subprocess

import pytest

from benchmarks import gpu_step_plan
from tests.e2e.benchmarks.test_same_model import ROOT, TORCH
from tests.gpu import build

PHASES = (
    "lookup", "bottom forward", "interaction forward", "top forward", "loss", "top backward",
    "interaction backward", "row update", "bottom backward", "dense update",
)  # fmt: skip


@pytest.fixture(scope="module")
def emulated(seed_of):
    """Returns what `tests.support.benchmarks.emulated_gpu_step` prints."""
    if not TORCH.exists():
        pytest.skip(".venv-torch does not exist: `make bench` makes it")
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found")
    done = subprocess.run(
        [TORCH, "-m", "tests.support.benchmarks.emulated_gpu_step", str(seed_of("gpu step"))],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Float16 gradients have 11 bits, and sums in another order round differently. In float32 what
# remains is the rounding of rows, which change little in a few steps, and now and then a ReLU that
# only one of the two passes: about 0.002 of the change.
@pytest.mark.parametrize("variant", gpu_step_plan.PARITY)
@pytest.mark.parametrize(
    ("precision", "loss", "change"), [("float16", 1e-4, 0.05), ("float32", 1e-5, 0.02)]
)
def test_gpu_step_equals_autograd_after_some_steps(variant, precision, loss, change, emulated):
    difference = emulated["parity"][precision][variant]
    assert difference["loss"] < loss
    assert difference["rows"] < change
    assert difference["weights"] < change


def test_gpu_step_takes_every_measurement(emulated):
    for kind, phases in (("uniform", PHASES), ("skewed", gpu_step_plan.ROW_PHASES)):
        found = emulated["times"][kind]
        wholes = {name: value for name, value in found.items() if name != "pieces"}
        assert set(wholes) == {
            "step", "PyTorch", gpu_step_plan.WITH_TORCH, gpu_step_plan.SORTED,
            *gpu_step_plan.OVERLAPPED,
        }  # fmt: skip
        assert set(found["pieces"]) == set(phases)
        times = [*wholes.values()]
        for piece in found["pieces"].values():
            assert set(piece) == {"alone", "without"}
            times += piece.values()
        assert all(isinstance(time, float) and time > 0 for time in times), found
        assert len(emulated["shares"][kind]) == 3
        assert set(emulated["least"][kind]) == {*PHASES, "step"}
    assert emulated["bad id"] is None
