"""Random batches have the shapes of a dataset or of a checkpoint."""

import dataclasses
import types

import numpy as np
import pytest

from ops.bags import Bags
from tests.support.dataset import layouts, multi_hot
from tests.support.dataset.feature_specs import SIZES, SpecDataset
from tests.support.dataset.hand_written import random_arrays
from tests.unit.dataset.test_torchrec import random_bags, remove_one_hot, write_multi_hot_days
from training import cli
from training.checkpoint.manifest import dense_features
from training.config import DataConfig, TrainingConfig
from training.data import open_data
from training.modes import plan
from training.runtime.errors import UserError
from training.sample_shape import SampleShape

ONE_RANK = types.SimpleNamespace(rank=0, size=1)


def random_batches(shape=None, **data):
    config = DataConfig(use_synthetic_dataset=True, **data)
    training = TrainingConfig(global_batch_size=6, early_stop=1)
    return open_data(config, training, shape).load(None, ONE_RANK)


@pytest.mark.parametrize("numerical", [1, 10])
def test_random_batches_have_the_shapes_of_a_dataset(tmp_path, rng, numerical):
    SpecDataset(tmp_path, rng, numerical, places=("x", "y"))
    data = random_batches(data_dir=str(tmp_path))
    assert (data.vocab_sizes, data.dense_features) == (SIZES, numerical)
    (batch,) = data.train(0)
    assert batch["dense"].shape == (6, numerical)
    assert data.one_batch(4)["dense"].shape == (4, numerical)


def test_random_batches_have_the_dense_features_of_a_checkpoint():
    shapes = {"01.bias": [9], "10.kernel": [4, 2], "00.kernel": [7, 9]}
    dense = {name: {"shape": shape} for name, shape in shapes.items()}
    reader = types.SimpleNamespace(manifest={"dense": dense})
    data = random_batches(SampleShape(dense_features(reader.manifest)), vocab_sizes="5,3")
    assert data.dense_features == 7
    (batch,) = data.train(0)
    assert batch["dense"].shape == (6, 7)


def test_random_batches_have_the_ids_per_sample_of_a_checkpoint():
    bags = Bags.of((2, 4), ("mean", "sum"), (False, True))
    data = random_batches(SampleShape(bags=bags), vocab_sizes="5,3")
    (batch,) = data.train(0)
    assert (data.bags, batch["categorical"].shape) == (bags, (6, 6))
    assert random_batches(SampleShape(bags=bags), vocab_sizes="5,3", hotness="1,3").bags.slots == 4


def file_batches(folder, **data):
    config = DataConfig(data_dir=str(folder), **data)
    return open_data(config, TrainingConfig(global_batch_size=50)).load(None, ONE_RANK)


def test_random_batches_have_the_ids_per_sample_of_the_flag_or_the_dataset(tmp_path, rng):
    data = random_batches(vocab_sizes="5,300", hotness="3,1")
    (batch,) = data.train(0)
    ids = batch["categorical"].numpy()
    assert ids.shape == (6, 4)
    assert ids[:, :3].max() < 5
    assert data.facts["bags"] == Bags.of((3, 1)).description()
    for split in ("train", "test"):
        drawn = multi_hot.random_samples(rng, 100)
        multi_hot.write_three_file(
            tmp_path / split, drawn, hotness_per_table=list(multi_hot.FIXED.hotness)
        )
    data = random_batches(data_dir=str(tmp_path))
    assert data.bags.hotness == multi_hot.FIXED.hotness
    assert data.one_batch(4)["categorical"].shape == (4, multi_hot.FIXED.slots)


def test_files_without_lists_have_no_bags_in_their_facts(small_dataset):
    assert "bags" not in file_batches(small_dataset).facts


def separate_tables(folder):
    config = DataConfig(data_dir=str(folder))
    return open_data(config, TrainingConfig(global_batch_size=50)).separate_tables


@pytest.mark.parametrize(("write", "expected"), [
    (layouts.raw, False), (layouts.three_file, False), (layouts.per_table, True),
    (layouts.deep_learning_examples, True), (layouts.mlperf, True),
])  # fmt: skip
def test_layouts_have_separate_tables(tmp_path, rng, write, expected):
    write(tmp_path, random_arrays(200, rng), random_arrays(90, rng))
    assert separate_tables(tmp_path) == expected


def test_days_and_lists_have_separate_tables(tmp_path, rng):
    arrays = random_arrays(120, rng)
    # More tables than days: the tables of a day share its archive.
    write_multi_hot_days(tmp_path / "days", arrays, random_bags(120, rng), [50, 70])
    assert not separate_tables(tmp_path / "days")  # one-hot days too
    remove_one_hot(tmp_path / "days")
    assert separate_tables(tmp_path / "days")
    for split in ("train", "test"):
        drawn = multi_hot.random_samples(rng, 100, multi_hot.VARIABLE)
        multi_hot.write_per_table(tmp_path / "lists" / split, drawn)
    assert separate_tables(tmp_path / "lists")


def test_multi_hot_flag_adds_the_published_ids(small_dataset):
    plain = file_batches(small_dataset)
    hotness = (3, 1, 2, 5, 1, 4)
    data = file_batches(small_dataset, multi_hot=",".join(map(str, hotness)))
    assert data.bags == Bags.of(hotness)
    random = np.random.RandomState(0)
    maps = [random.randint(0, r, (r, k - 1)) for r, k in zip(plain.vocab_sizes, hotness)]
    for found, given in zip(data.train(0), plain.train(0)):
        ids = given["categorical"].numpy()
        parts = [np.c_[own, table[own]] for own, table in zip(ids.T, maps)]
        np.testing.assert_array_equal(found["categorical"], np.hstack(parts))
        np.testing.assert_array_equal(found["dense"], given["dense"])
    found, given = data.one_batch(64)["categorical"], plain.one_batch(64)["categorical"]
    np.testing.assert_array_equal(found.numpy()[:, 0], given.numpy()[:, 0])


def test_multi_hot_flag_needs_one_id_per_table(tmp_path, rng, small_dataset):
    for split in ("train", "test"):
        drawn = multi_hot.random_samples(rng, 100)
        multi_hot.write_three_file(
            tmp_path / split, drawn, hotness_per_table=list(multi_hot.FIXED.hotness)
        )
    with pytest.raises(UserError, match="expected one id per table") as caught:
        file_batches(tmp_path, multi_hot="1,1,1,1,1")
    assert caught.value.flag == "multi_hot"
    with pytest.raises(UserError, match="expected 6 numbers") as caught:
        file_batches(small_dataset, multi_hot="1,1")
    assert caught.value.flag == "multi_hot"
    words = ["main.py", "--mode=plan", f"--data_dir={tmp_path}", "--multi_hot=1,1,1,1,1"]
    with pytest.raises(UserError, match="expected one id per table") as caught:
        plan.planned_run(cli.parse(words))
    assert caught.value.flag == "multi_hot"


def test_plan_reads_the_stored_ids_with_multi_hot(small_dataset):
    words = ["main.py", "--mode=plan", f"--data_dir={small_dataset}", "--global_batch_size=512"]
    plain = plan.planned_run(cli.parse(words))
    made = plan.planned_run(cli.parse([*words, "--multi_hot=3,1,2,5,1,4"]))
    assert made.shape.ids == (3, 1, 2, 5, 1, 4)
    for per_table in (True, False):
        counts = [
            dataclasses.replace(run, per_table_files=per_table).cost(run.place(1)).counts
            for run in (plain, made)
        ]
        assert counts[0].input_bytes == counts[1].input_bytes > 0
        assert counts[0].lookup_bytes < counts[1].lookup_bytes


def test_vocab_sizes_keep_the_other_shapes_of_the_dataset(tmp_path, rng):
    """Of random batches and the plan; another number of tables needs --hotness."""
    drawn = multi_hot.random_samples(rng, 100)
    hotness = list(multi_hot.FIXED.hotness)
    for split in ("train", "test"):
        multi_hot.write_three_file(tmp_path / split, drawn, hotness_per_table=hotness)
    stored = random_batches(data_dir=str(tmp_path))
    sizes = [rows + 7 for rows in stored.vocab_sizes]

    def planned(*flags):
        words = ["main.py", "--mode=plan", f"--data_dir={tmp_path}", *flags]
        return plan.planned_run(cli.parse(words)).shape

    text = ",".join(map(str, sizes))
    data, shape = (
        random_batches(data_dir=str(tmp_path), vocab_sizes=text),
        planned(f"--vocab_sizes={text}"),
    )
    assert (data.vocab_sizes, data.bags) == (sizes, stored.bags)
    assert (list(shape.vocab_sizes), list(shape.ids)) == (sizes, hotness)
    for of_vocab in (
        lambda: random_batches(data_dir=str(tmp_path), vocab_sizes="5,3"),
        lambda: planned("--vocab_sizes=5,3"),
    ):
        with pytest.raises(UserError, match=f"expected {len(sizes)} tables.*found 2") as caught:
            of_vocab()
        assert (caught.value.flag, str(caught.value).count("\n")) == ("vocab_sizes", 0)
    assert planned("--vocab_sizes=5,3", "--hotness=2,4").ids == (2, 4)


def test_vocab_sizes_keep_the_dense_features_of_the_dataset(tmp_path, rng):
    SpecDataset(tmp_path, rng, 10, places=("x", "y"))
    text = ",".join(str(rows + 1) for rows in SIZES)
    assert random_batches(data_dir=str(tmp_path), vocab_sizes=text).dense_features == 10
