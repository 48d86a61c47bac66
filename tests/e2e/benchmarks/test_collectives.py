"""The benchmark of collectives: its sizes, and the table and JSON of a small run on two ranks."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import collectives
from tests.support import launch


def test_gradient_shapes_are_those_of_the_default_model():
    shapes = collectives.gradient_shapes()
    assert len(shapes) == 16 and shapes[:2] == [(13, 512), (512,)] and shapes[-1] == (1,)
    assert sum(int(np.prod(shape)) for shape in shapes) == 2_369_921


def test_divide_keeps_proportions_and_the_total(rng):
    weights = [int(w) for w in rng.integers(1, 1000, 16)]
    for total in (16, 17, 100, 1 << 20):
        parts = collectives.divide(total, weights)
        assert sum(parts) == total and min(parts) >= 1 and len(parts) == 16
        ideal = (total - 16) * np.array(weights) / sum(weights) + 1
        assert np.abs(parts - ideal).max() <= 1
    with pytest.raises(ValueError, match="expected at least 16 elements, found 15"):
        collectives.divide(15, weights)


def test_check_rejects_a_collective_with_wrong_values():
    class Tensor:
        def __init__(self, values):
            self._values = np.asarray(values)

        def numpy(self):
            return self._values

    assert callable(collectives._checked(lambda: [Tensor([1, 1])], [np.array([1, 1])]))
    with pytest.raises(RuntimeError, match=r"expected \[1\], found \[1 2\]"):
        collectives._checked(lambda: [Tensor([1, 2])], [np.array([1, 1])])


def test_run_on_two_ranks_measures_every_way(tmp_path):
    results = tmp_path / "collectives.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.collectives", "--sizes", "4,1024", "--rounds", "2",
         "--json", results], cwd=launch.ROOT, env=launch.environment(DLRM_BIND="none"),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads(results.read_text())
    assert written["benchmark"] == "collectives" and written["cycle_time_ms"] == 0.1
    gradients = 4 * (2_369_921 + 1 + collectives.VOTES)
    assert [(row["collective"], row["bytes"]) for row in written["rows"]] == [
        ("alltoall", 4), ("allreduce", 4), ("alltoall", 1024), ("allreduce", 1024),
        ("allreduce, 16 tensors", 1024), ("gradients, 18 tensors", gradients),
        ("gradients, one buffer", gradients),
        ("gradients, one buffer, without the copy", gradients),
    ]  # fmt: skip
    for row in written["rows"]:
        assert row["ranks"] == 2
        assert 0 < row["seconds_low"] <= row["seconds"] <= row["seconds_high"]
        assert f"| 2 | {row['collective']} | {row['bytes']:,} |" in done.stdout


def test_failed_ranks_are_reported():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.collectives", "--sizes", "4", "--rounds", "1"],
        cwd=launch.ROOT, env={**launch.environment(), "DLRM_BIND": "wrong"}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("collectives: horovodrun failed with status")
    assert "DLRM_BIND=wrong" in done.stderr
