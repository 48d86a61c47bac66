"""The GPU step on the emulated kernels, compared with PyTorch's autograd."""

import json
import subprocess

import pytest

from tests.e2e.benchmarks.test_same_model import ROOT, TORCH
from tests.gpu import build

PROGRAM = """
import json, sys, torch
from benchmarks import gpu_step
from tests.gpu import build, launchers
library = launchers.Library(build.build_emulation())
print(json.dumps(gpu_step.parity(torch, library, int(sys.argv[1]), batch=64, device="cpu")))
"""


@pytest.mark.skipif(not TORCH.exists(), reason=".venv-torch does not exist: `make bench` makes it")
@pytest.mark.skipif(build.cuda_include() is None, reason="CUDA's headers were not found")
def test_gpu_step_equals_autograd_after_ten_steps(seed):
    done = subprocess.run(
        [TORCH, "-c", PROGRAM, str(seed)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    difference = json.loads(done.stdout)
    # Float16 gradients have 11 bits, and sums in another order round differently.
    assert difference["loss"] < 1e-4
    assert difference["rows"] < 0.05
    assert difference["weights"] < 0.05
