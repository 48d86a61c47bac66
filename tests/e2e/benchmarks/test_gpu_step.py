"""The GPU step on the emulated kernels, compared with PyTorch's autograd."""

import json
import os
import subprocess

import pytest

from benchmarks import gpu_step
from tests.e2e.benchmarks.test_same_model import ROOT, TORCH
from tests.gpu import build

pytestmark = [
    pytest.mark.skipif(
        not TORCH.exists(), reason=".venv-torch does not exist: `make bench` makes it"
    ),
    pytest.mark.skipif(build.cuda_include() is None, reason="CUDA's headers were not found"),
]
PHASES = (
    "lookup", "bottom forward", "interaction forward", "top forward", "loss", "top backward",
    "interaction backward", "row update", "bottom backward", "dense update",
)  # fmt: skip


def run(*arguments):
    """Returns what a program of `tests.support.benchmarks.emulated_gpu_step` prints."""
    done = subprocess.run(
        [TORCH, "-m", "tests.support.benchmarks.emulated_gpu_step", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# Float16 gradients have 11 bits, and sums in another order round differently. In float32 what remains
# is the rounding of rows, which change little in ten steps, and now and then a ReLU that only one of
# the two passes: 0.002 of the change.
@pytest.mark.parametrize(
    ("precision", "loss", "change"), [("float16", 1e-4, 0.05), ("float32", 1e-5, 0.02)]
)
def test_gpu_step_equals_autograd_after_ten_steps(precision, loss, change, seed):
    difference = run("parity", seed, precision)
    assert difference["loss"] < loss
    assert difference["rows"] < change
    assert difference["weights"] < change


def test_gpu_step_takes_every_measurement(seed):
    found, shares, bad_id = run("measure", seed)
    for kind, phases in (("uniform", PHASES), ("skewed", gpu_step.ROW_PHASES)):
        wholes = {name: value for name, value in found[kind].items() if name != "pieces"}
        assert set(wholes) == {"step", "PyTorch", "step, sorted update"}
        pieces = found[kind]["pieces"]
        assert set(pieces) == set(phases)
        times = [*wholes.values(), *(time for name in pieces for time in pieces[name].values())]
        assert len(times) == 3 + 2 * len(phases)
        assert all(isinstance(time, float) and time > 0 for time in times), found
        assert len(shares[kind]) == 3
    assert bad_id is None
