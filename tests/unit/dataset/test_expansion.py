"""Multi-hot batches made from one-hot ones in memory: equal to the published rule, no copies."""

import numpy as np
import pytest
import tensorflow as tf

from dataset import DatasetError, expansion, multihot, open_split, reader
from dataset.multihot_maps import MapRule, draw
from tests.support.dataset.hand_written import VOCAB_SIZES, random_arrays, write_raw

ROWS = (50, 3, 200, 7, 1000)
HOTNESS = (3, 1, 100, 2, 1)


def one_hot_batches(rng, tables=(0, 1, 2, 3, 4), batches=3, samples=40):
    ids = [
        np.stack([rng.integers(0, ROWS[t], samples, np.int32) for t in tables], axis=1)
        for _ in range(batches)
    ]
    dataset = tf.data.Dataset.from_tensor_slices(
        {"categorical": np.stack(ids), "valid": np.arange(batches, dtype=np.int32)}
    )
    return ids, dataset


@pytest.mark.parametrize("tables", [None, [4, 2, 0], [1, 4]])
@pytest.mark.parametrize("distribution", ["uniform", "pareto"])
def test_expanded_batches_follow_the_published_rule(rng, tables, distribution):
    random = np.random.RandomState(3)
    further = []
    for rows, hotness in zip(ROWS, HOTNESS):
        if distribution == "uniform":
            further.append(random.randint(0, rows, size=(rows, hotness - 1)))
        else:
            with np.errstate(invalid="ignore"):
                drawn = random.pareto(a=0.25, size=(rows, hotness - 1))
                further.append(drawn.astype(np.int32) % rows)
    chosen = range(len(ROWS)) if tables is None else tables
    ids, batches = one_hot_batches(rng, chosen)
    maps = expansion.maps_in_memory(MapRule(ROWS, HOTNESS, distribution, seed=3), tables)
    found = list(expansion.expanded(batches, maps, tables).as_numpy_iterator())
    assert [batch["valid"] for batch in found] == [0, 1, 2]
    for batch, own in zip(found, ids):
        expected = [
            np.concatenate([own[:, [i]], further[table][own[:, i]]], axis=1)
            for i, table in enumerate(chosen)
        ]
        assert batch["categorical"].dtype == np.int32
        np.testing.assert_array_equal(batch["categorical"], np.concatenate(expected, axis=1))


def test_expanded_batches_share_the_memory_of_the_maps(rng):
    maps = draw(MapRule(ROWS, HOTNESS))
    ids, batches = one_hot_batches(rng, batches=1)
    dataset = expansion.expanded(batches, maps)
    maps.array(2)[:] = -7
    (batch,) = dataset.as_numpy_iterator()
    assert (batch["categorical"][:, 5:104] == -7).all()
    assert (batch["categorical"][:, 4] == ids[0][:, 2]).all()


def test_maps_beyond_the_limit_are_refused_with_the_bytes_needed():
    rule = MapRule((40_000_000,) * 2, (100, 27))
    with pytest.raises(DatasetError, match=r"found 20,000,000,000; write .*dataset.multihot"):
        expansion.maps_in_memory(rule, limit=16 << 30)
    with pytest.raises(DatasetError, match=r"at most 1,000 bytes of memory, found 4,000,000,000;"):
        expansion.maps_in_memory(MapRule((40_000_000, 9), (26, 26)), [0], limit=1000)
    assert expansion.maps_in_memory(MapRule(ROWS, HOTNESS), [3], 28).rule.nbytes([3]) == 28


def test_batches_of_other_tables_are_refused(rng):
    maps = draw(MapRule(ROWS, HOTNESS), [0, 2])
    _, batches = one_hot_batches(rng, [0, 2])
    with pytest.raises(DatasetError, match="columns of one-hot ids to expand: expected 5, found 2"):
        expansion.expanded(batches, maps)
    with pytest.raises(DatasetError, match=r"expected \[0, 2\], found 3"):
        expansion.expanded(batches, maps, [0, 3])


@pytest.mark.parametrize("tables", [None, [6, 0, 3]])
def test_expanded_batches_equal_those_of_written_multi_hot_data(tmp_path, rng, tables):
    write_raw(tmp_path / "a.bin", random_arrays(103, rng))
    one_hot = open_split(tmp_path / "a.bin", vocab_sizes=VOCAB_SIZES)
    rule = MapRule(tuple(VOCAB_SIZES), (3, 1, 2, 5, 1, 7, 12, 1))
    written = str(tmp_path / "b")
    multihot.write_multi_hot([one_hot], written, rule, layout="three_file", progress=False)

    def batches(description, drop_remainder=True):
        return reader.batches(description, 30, 1, 3, tables=tables, drop_remainder=drop_remainder)

    maps = expansion.maps_in_memory(rule, tables)
    expected = list(batches(open_split(written)).as_numpy_iterator())
    found = list(expansion.expanded(batches(one_hot), maps, tables).as_numpy_iterator())
    assert len(found) == len(expected) == 3
    for ours, theirs in zip(found, expected):
        assert ours.keys() == theirs.keys()
        for name, values in ours.items():
            np.testing.assert_array_equal(values, theirs[name])
    if tables is None:
        # 13 samples are left: rank 1 has 4 of them.
        *_, theirs = batches(open_split(written), drop_remainder=False).as_numpy_iterator()
        partial = batches(one_hot, drop_remainder=False)
        *_, ours = expansion.expanded(partial, maps).as_numpy_iterator()
        assert ours["valid"] == theirs["valid"] == 4
        np.testing.assert_array_equal(ours["categorical"][:4], theirs["categorical"][:4])
