"""Ids of the GPU step benchmark."""

import numpy as np
import pytest

from benchmarks import gpu_step


@pytest.mark.parametrize("kind", ["uniform", "skewed"])
def test_draw_ids_stays_within_tables_and_skews(kind, rng):
    sizes = [3, 1, 1000, 39_884_406]
    ids = gpu_step.draw_ids(rng, sizes, 5000, kind)
    assert ids.dtype == np.int32 and ids.shape == (5000, 4)
    assert np.all(ids >= 0) and np.all(ids < sizes)
    distinct = len(np.unique(ids[:, 2]))
    assert distinct > 900 if kind == "uniform" else distinct < 900
