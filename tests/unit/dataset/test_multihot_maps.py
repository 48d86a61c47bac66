"""The maps of the MLPerf benchmark's multi-hot data: the published rule, in parts and in a file."""

import numpy as np
import pytest

from dataset import DatasetError, multihot_maps
from dataset.multihot_maps import MapRule, draw
from ops.bags import MLPERF_HOTNESS

ROWS = (1000, 1, 70, 3, 129, 40_000, 2)
HOTNESS = (3, 4, 1, 100, 7, 12, 2)
MLPERF_ROWS = (
    40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10, 2209,
    11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36,
)  # fmt: skip


def reference_maps(rows, hotness, distribution="uniform", seed=0):
    """The rule in one call per table."""
    random = np.random.RandomState(seed)
    maps = []
    for n, k in zip(rows, hotness):
        if distribution == "uniform":
            maps.append(random.randint(0, n, size=(n, k - 1)))
        else:
            with np.errstate(invalid="ignore"):
                maps.append(random.pareto(a=0.25, size=(n, k - 1)).astype(np.int32) % n)
    return maps


@pytest.mark.parametrize("distribution", ["uniform", "pareto"])
@pytest.mark.parametrize("drawn", [None, 1, 997])
def test_maps_equal_the_published_rule_whatever_the_parts(rng, monkeypatch, distribution, drawn):
    rows, hotness = ROWS, HOTNESS
    if drawn == 1:  # slow
        rows, hotness = (50, 1, 7, 20), (3, 2, 1, 5)
    if drawn is not None:
        monkeypatch.setattr(multihot_maps, "_DRAWN", drawn)
    seed = int(rng.integers(0, 2**32))
    for used in (0, seed):
        maps = draw(MapRule(rows, hotness, distribution, used))
        for table, expected in enumerate(reference_maps(rows, hotness, distribution, used)):
            assert maps.array(table).dtype == np.int32
            np.testing.assert_array_equal(maps.array(table), expected)


def test_pareto_draws_values_that_int32_cannot_hold():
    # The rule for these is part of the published data; the other tests must meet it.
    values = np.random.RandomState(0).pareto(0.25, 1000 * 2)
    assert (values >= 2**31).any()


def test_maps_of_some_tables_equal_those_of_all(tmp_path):
    rule = MapRule(ROWS, HOTNESS)
    some = draw(rule, tables=[4, 0], folder=str(tmp_path))
    for table in (0, 4):
        np.testing.assert_array_equal(some.array(table), reference_maps(ROWS, HOTNESS)[table])
    with pytest.raises(DatasetError, match=r"expected \[0, 4\], found 5"):
        some.array(5)
    assert rule.nbytes([0, 4]) == 4 * (1000 * 2 + 129 * 6)


def test_maps_in_a_file_equal_those_in_memory_and_leave_nothing(tmp_path):
    rule = MapRule(ROWS, HOTNESS, seed=5)
    in_file, in_memory = draw(rule, folder=str(tmp_path)), draw(rule)
    assert list(tmp_path.iterdir()) == []
    for table in range(len(ROWS)):
        np.testing.assert_array_equal(in_file.array(table), in_memory.array(table))
        assert in_file.array(table).ctypes.data % 64 == 0 or not in_file.array(table).size


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_expand_hashes_ids_before_it_looks_them_up(rng, dtype):
    maps = draw(MapRule(ROWS, HOTNESS))
    info = np.iinfo(dtype)
    ids = rng.integers(max(info.min, -(10**9)), min(info.max, 10**9), 300, dtype, endpoint=True)
    for table, further in enumerate(reference_maps(ROWS, HOTNESS)):
        own = np.array([int(value) % ROWS[table] for value in ids])
        expected = np.concatenate([own[:, None], further[own]], axis=1)
        found = maps.expand(table, ids)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)
        out = np.empty((len(ids), HOTNESS[table] + 2), np.int32)[:, 1:-1]
        assert maps.expand(table, ids, out) is out
        np.testing.assert_array_equal(out, expected)


def test_the_benchmark_has_214_ids_per_sample_and_maps_of_23_gb():
    rule = MapRule(MLPERF_ROWS, MLPERF_HOTNESS)
    assert rule.bags.slots == 214
    assert rule.nbytes([20]) == 15_840_000_000
    assert 23.0e9 < rule.nbytes() < 23.5e9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((5, 6), (1,)), "hotness, one per categorical feature: expected 2, found 1"),
        (((5, 6), (1, 0)), "hotness of table 1: expected an integer from 1 to 65536, found 0"),
        (((5,), (2,), "normal"), "distribution: expected one of uniform, pareto, found normal"),
        (((5,), (2,), "uniform", -1), "seed: expected 0 to 4294967295, found -1"),
    ],
)
def test_rule_refuses_what_it_cannot_draw(arguments, message):
    with pytest.raises(DatasetError, match=message):
        MapRule(*arguments)


def test_missing_room_names_the_bytes_needed(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multihot_maps.os, "posix_fallocate", full)
    with pytest.raises(DatasetError, match=r"expected 8,000 for the maps .*No space left"):
        draw(MapRule((1000,), (3,)), folder=str(tmp_path))
    assert list(tmp_path.iterdir()) == []
