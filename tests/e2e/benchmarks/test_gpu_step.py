"""The GPU step's arithmetic without a GPU: on the emulated kernels, beside PyTorch's autograd."""

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


@pytest.mark.skipif(not TORCH.exists(), reason=".venv-torch is not there: make bench makes it")
@pytest.mark.skipif(build.cuda_include() is None, reason="CUDA's headers were not found")
def test_ten_steps_end_where_autograd_ends():
    seed = int(np.random.default_rng().integers(1 << 20))
    print(f"seed {seed}")
    done = subprocess.run(
        [TORCH, "-c", PROGRAM, str(seed)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    apart = json.loads(done.stdout)
    # Float16 gradients: sums in another order round differently, and float16 keeps 11 bits.
    assert apart["loss"] < 1e-4
    assert apart["rows"] < 0.05
    assert apart["weights"] < 0.05


@pytest.mark.parametrize("kind", ["uniform", "skewed"])
def test_ids_lie_within_their_tables(kind):
    sizes = [3, 1, 1000, 39_884_406]
    ids = gpu_step.draw_ids(np.random.default_rng(), sizes, 5000, kind)
    assert ids.dtype == np.int32 and ids.shape == (5000, 4)
    assert np.all(ids >= 0) and np.all(ids < sizes)
    distinct = len(np.unique(ids[:, 2]))
    assert distinct > 900 if kind == "uniform" else distinct < 900
