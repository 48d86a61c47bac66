"""The harness's checks and timings of the full tables, on small tables and the emulated kernels."""

import itertools
import json
import os
import subprocess

import pytest

from tests.e2e.benchmarks.test_same_model import ROOT, TORCH
from tests.gpu import build, embedding_timings, full_checks, group


@pytest.fixture(scope="module")
def emulated(seed_of):
    """Returns what `tests.support.ops.emulated_gpu_tables` prints."""
    if not TORCH.exists():
        pytest.skip(".venv-torch does not exist: `make bench` makes it")
    if build.cuda_include() is None:
        pytest.skip("CUDA's headers were not found")
    done = subprocess.run(
        [TORCH, "-m", "tests.support.ops.emulated_gpu_tables", str(seed_of("gpu tables"))],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_groups_list_their_entries_by_share_and_name(emulated):
    names = emulated["names"]
    assert set(names) == {*group.CHECKS, *group.TIMINGS}
    listed = list(itertools.chain(*names.values()))
    assert all(names.values()) and len(set(listed)) == len(listed)
    for name, entries in names.items():
        first, second = (share[name] for share in emulated["shares"])
        assert first == entries[::2] and second == entries[1::2]
        chosen = [entry for entry in entries if "SGD" in entry or "forward" in entry]
        assert emulated["only"][name] == chosen


def test_full_check_passes_sound_kernels_and_finds_faults(emulated):
    cases, worst = emulated["sound"]
    assert cases > 1000 and 0 < worst <= 1
    assert emulated["faults"]["initialize"].startswith("vectors: ")
    assert emulated["faults"]["lookup"].startswith("vectors: ")
    assert emulated["faults"]["update"].startswith("uniform ids, SGD atomics: rows: error ")


def test_full_check_covers_offsets_beyond_32_bits():
    assert sum(full_checks.SIZES) == 187_767_399
    assert max(full_checks.BOUNDARIES) * 32 == 2**32  # groups of four elements
    assert 2**31 // 32 in full_checks.BOUNDARIES and 2**31 // 128 in full_checks.BOUNDARIES
    assert max(full_checks.BOUNDARIES) < sum(full_checks.SIZES)


def test_full_timings_run_every_operation_and_kind_of_ids(emulated):
    results = emulated["timings"]
    assert len(results) == 3 * len(embedding_timings.WITHOUT_STATE) + 1
    assert all(entry["passed"] and entry["bytes"] > 0 for entry in results.values()), results
    for operation in embedding_timings.WITHOUT_STATE:
        for case in ("uniform ids", "skewed ids", "one row"):
            entry = results[f"{operation} float16, MLPerf sizes, {case}"]
            shares = entry["hottest_row_shares"]
            assert len(shares) == 4 and shares[2] == 1  # a table of one row
            assert (min(shares) == 1) == (case == "one row")
            assert "torch_error" not in entry
            assert ("torch" in entry) == (case != "one row" and operation != "SGD deterministic")
    assert emulated["bad id"] is None


def test_full_timings_are_skipped_in_one_line_without_memory(emulated):
    ((name, entry),) = emulated["skipped"].items()
    assert name == "MLPerf sizes" and entry["passed"] and "expected" in entry["skipped"]
