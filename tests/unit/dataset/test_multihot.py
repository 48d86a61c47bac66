"""Multi-hot data made from one-hot data: equal to the published rule, from and to every layout."""

import json

import numpy as np
import pytest

from dataset import DatasetError, convert, multihot, open_dataset, open_split, validate
from dataset.chunks import ChunkReader, transformed_dense
from tests.support.dataset import layouts
from tests.support.dataset.hand_written import VOCAB_SIZES, random_arrays, write_days, write_raw

HOTNESS = (3, 1, 2, 5, 1, 7, 12, 1)
LIST = ",".join(map(str, HOTNESS))
TRAIN, TEST = 997, 99


@pytest.fixture(scope="module")
def arrays(shared_rng):
    """Small train and test samples."""
    rng = shared_rng("test_multihot")
    return random_arrays(TRAIN, rng), random_arrays(TEST, rng)


def run(*arguments):
    return multihot.main([str(argument) for argument in arguments])


def reference(ids, hotness=HOTNESS, distribution="uniform", seed=0, rows=VOCAB_SIZES):
    """The ids [n, W] by the published rule; `ids` [n, T]."""
    random = np.random.RandomState(seed)
    parts = []
    for table, (count, width) in enumerate(zip(rows, hotness)):
        own = ids[:, table].astype(np.int64) % count
        if distribution == "uniform":
            further = random.randint(0, count, size=(count, width - 1))
        else:
            with np.errstate(invalid="ignore"):
                further = random.pareto(a=0.25, size=(count, width - 1)).astype(np.int32) % count
        parts.append(np.concatenate([own[:, None], further[own]], axis=1))
    return np.concatenate(parts, axis=1)


def stored(description):
    """Labels, ids [n, W] and transformed dense values of a split of one chunk."""
    with ChunkReader(description) as reader:
        chunk = reader.read(0, description.samples)
        ids = np.hstack([part.astype(np.int64) for part in chunk.ids])
        return chunk.label.astype(int), ids, transformed_dense(chunk, description.dense_column)


@pytest.mark.parametrize("write", [layouts.raw, layouts.three_file, layouts.per_table])
@pytest.mark.parametrize("target", ["per_table", "three_file"])
def test_multi_hot_data_follow_the_published_rule(tmp_path, arrays, write, target):
    write(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--hotness", LIST, "--layout", target) == 0
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"train", "test"}
    pairs = zip(open_dataset(tmp_path / "a"), open_dataset(tmp_path / "b"), arrays)
    for before, after, expected in pairs:
        assert after.layout == target
        assert after.bags.hotness == HOTNESS
        assert after.bags.pooling == ("sum",) * len(HOTNESS)
        assert validate.validate(after, progress=False)[1] == []
        label, ids, dense = stored(after)
        np.testing.assert_array_equal(ids, reference(expected.ids))
        np.testing.assert_array_equal(label, expected.label)
        np.testing.assert_allclose(dense, stored(before)[2], 2**-11, 1e-7)


def test_multi_hot_data_of_another_rule(tmp_path, arrays, rng):
    layouts.raw(tmp_path / "a", *arrays)
    seed = int(rng.integers(0, 2**32))
    options = ("--distribution", "pareto", "--seed", seed, "--pooling", "mean")
    assert run(tmp_path / "a", tmp_path / "b", "--hotness", LIST, *options) == 0
    for after, expected in zip(open_dataset(tmp_path / "b"), arrays):
        assert after.bags.pooling == tuple("mean" if k > 1 else "sum" for k in HOTNESS)
        ids = reference(expected.ids, HOTNESS, "pareto", seed)
        np.testing.assert_array_equal(stored(after)[1], ids)


def test_ids_of_torchrec_days_are_hashed_first(tmp_path, arrays, rng):
    days = arrays[0]._replace(ids=rng.integers(0, 2**31, arrays[0].ids.shape, np.int32))
    write_days(tmp_path / "a", days, [600, 397])
    sizes = ",".join(map(str, VOCAB_SIZES))
    options = ("--hotness", LIST, "--vocab_sizes", sizes)
    assert run(tmp_path / "a", tmp_path / "b", *options) == 0
    train, test = open_dataset(tmp_path / "b")
    np.testing.assert_array_equal(stored(train)[1], reference(days.ids[:600]))
    np.testing.assert_array_equal(stored(test)[1], reference(days.ids[600 : 600 + 199]))


def test_multi_hot_data_of_several_chunks_with_maps_in_a_file(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(multihot, "_MAX_MEMORY", 0)
    arrays = random_arrays(70_001, rng)
    write_raw(tmp_path / "a.bin", arrays)
    (tmp_path / "vocab_sizes.json").write_text(json.dumps(VOCAB_SIZES))
    assert run(tmp_path / "a.bin", tmp_path / "b", "--hotness", LIST, "--jobs", 2) == 0
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert names == {"label.bin", "dense.bin", "metadata.json"} | {
        f"category_{t}.bin" for t in range(len(VOCAB_SIZES))
    }
    after = open_split(tmp_path / "b")
    with ChunkReader(after) as reader:
        chunk = reader.read(65_000, 5_001)
        ids = np.hstack([part.astype(np.int64) for part in chunk.ids])
    np.testing.assert_array_equal(ids, reference(arrays.ids)[65_000:])


def test_data_with_several_ids_are_not_expanded_again(tmp_path, arrays, capsys):
    layouts.raw(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--hotness", LIST) == 0
    assert run(tmp_path / "b", tmp_path / "c", "--hotness", LIST) == 2
    assert "data to expand: expected one id per table, found hotness [3," in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("hotness", "message"),
    [
        ("3,2", "hotness, one per categorical feature: expected 8, found 2"),
        ("mlperf", "hotness, one per categorical feature: expected 8, found 26"),
        ("3,1,2,5,1,7,0,1", "hotness of table 6: expected an integer from 1 to 65536, found 0"),
        ("some", "expected mlperf, comma-separated integers"),
    ],
)
def test_wrong_hotness_is_refused(tmp_path, arrays, capsys, hotness, message):
    layouts.raw(tmp_path / "a", *arrays)
    assert run(tmp_path / "a", tmp_path / "b", "--hotness", hotness) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_existing_data_are_replaced_only_on_request(tmp_path, arrays, capsys):
    layouts.raw(tmp_path / "a", *arrays)
    for options, status in (((), 0), ((), 2), (("--overwrite", "--seed", "1"), 0)):
        assert run(tmp_path / "a", tmp_path / "b", "--hotness", LIST, *options) == status
    assert "already exists" in capsys.readouterr().err
    after = open_dataset(tmp_path / "b")[1]
    np.testing.assert_array_equal(stored(after)[1], reference(arrays[1].ids, seed=1))
    with pytest.raises(DatasetError, match="already exists"):
        convert.convert_dataset(
            list(open_dataset(tmp_path / "b")), str(tmp_path / "b"), "per_table"
        )
