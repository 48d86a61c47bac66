"""SOK's own Python source over Horovod, with TensorFlow's ops in place of its CUDA ops."""

import os

import pytest

from tests.support import launch


@pytest.mark.slow
@pytest.mark.launches
@pytest.mark.skipif("DLRM_SOK_SOURCE" not in os.environ, reason="DLRM_SOK_SOURCE is not set")
@pytest.mark.parametrize("size", [1, 2])
def test_sok_source_trains_under_horovod(size, seed):
    done = launch.run(size, "-m", "tests.support.model.sok_source_ranks", seed, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count(f"on {size} ranks: all equal") == size
