"""The GPU step on the emulated kernels, compared with PyTorch's autograd."""

import json
import subprocess

import numpy as np
import pytest

from benchmarks import gpu_step
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


@pytest.mark.parametrize("kind", ["uniform", "skewed"])
def test_draw_ids_stays_within_tables_and_skews(kind, rng):
    sizes = [3, 1, 1000, 39_884_406]
    ids = gpu_step.draw_ids(rng, sizes, 5000, kind)
    assert ids.dtype == np.int32 and ids.shape == (5000, 4)
    assert np.all(ids >= 0) and np.all(ids < sizes)
    distinct = len(np.unique(ids[:, 2]))
    assert distinct > 900 if kind == "uniform" else distinct < 900
