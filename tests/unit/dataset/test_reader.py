"""The reader gives every sample once, for any ranks, tables and first step."""

import numpy as np
import pytest
import tensorflow as tf

from dataset import DatasetError, open_split, reader
from dataset.batches import local_batch_size, partition, steps
from tests.support.dataset.hand_written import (
    VOCAB_SIZES,
    random_arrays,
    seed_metadata,
    write_narrow,
    write_raw,
    write_three_file,
)

SAMPLES = 230


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, shared_rng):
    """(arrays, {layout: description})."""
    arrays = random_arrays(SAMPLES, shared_rng("test_reader"))
    root = tmp_path_factory.mktemp("reader")
    write_three_file(root / "three_file", arrays, seed_metadata())
    write_narrow(root / "per_table", arrays, "dense.bin", "category_{}.bin")
    write_raw(root / "raw.bin", arrays)
    descriptions = {
        name: open_split(root / path, vocab_sizes=VOCAB_SIZES)
        for name, path in
        [("three_file", "three_file"), ("per_table", "per_table"), ("raw", "raw.bin")]
    }  # fmt: skip
    return arrays, descriptions


def test_partition_gives_every_sample_to_one_rank(rng):
    for _ in range(300):
        samples, local, size = rng.integers([0, 1, 1], [401, 41, 10]).tolist()
        batch = local * size
        assert local_batch_size(batch, size) == local
        seen = []
        for step in range(steps(samples, batch, drop_remainder=False)):
            remaining = min(batch, samples - step * batch)
            shares = [partition(remaining, step * batch, rank, size) for rank in range(size)]
            counts = [count for _, count in shares]
            assert max(counts) <= local
            assert max(counts) - min(counts) <= 1
            for first, count in shares:
                seen += range(first, first + count)
        assert seen == list(range(samples))
        full = steps(samples, batch, drop_remainder=True)
        assert full * batch <= samples < (full + 1) * batch


@pytest.mark.parametrize("layout", ["three_file", "per_table", "raw"])
def test_batches_of_all_ranks_hold_every_sample_once(dataset, layout):
    arrays, descriptions = dataset
    local, size = 25, 3  # the last of 4 batches has 5 samples: 2, 2 and 1
    per_rank = [
        list(reader.batches(descriptions[layout], local * size, rank, size, drop_remainder=False))
        for rank in range(size)
    ]
    assert {len(one) for one in per_rank} == {4}
    parts = {"label": [], "dense": [], "categorical": []}
    for step in zip(*per_rank):
        for one in step:
            valid = int(one["valid"])
            assert one["categorical"].shape == (local, len(VOCAB_SIZES))
            assert one["dense"].shape == (local, 13)
            assert one["label"].shape == (local, 1)
            for name, values in parts.items():
                assert not one[name][valid:].numpy().any()
                values.append(one[name][:valid])
    assert [int(one["valid"]) for one in next(reversed(list(zip(*per_rank))))] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(parts["label"])[:, 0], arrays.label)
    np.testing.assert_array_equal(np.concatenate(parts["categorical"]), arrays.ids)
    # Every description here takes or has stored a logarithm of the counts.
    shift = 3 if layout == "three_file" else 1
    tolerance = 2**-10 if layout == "per_table" else 3e-7
    expected = np.log(arrays.dense + float(shift))
    np.testing.assert_allclose(np.concatenate(parts["dense"]), expected, tolerance, tolerance)


@pytest.mark.parametrize(
    ("layout", "tables"),
    [("three_file", [6, 1]), ("per_table", [6, 1]), ("per_table", list(range(8))),
     ("per_table", []), ("raw", [2, 3, 4])],
)  # fmt: skip
def test_batches_of_some_tables_hold_the_global_batch(dataset, layout, tables):
    arrays, descriptions = dataset
    size, batch, rank = 3, 60, 1
    local = batch // size
    found = list(
        reader.batches(descriptions[layout], batch, rank, size, tables=tables, drop_remainder=False)
    )
    assert len(found) == 4
    for step, one in enumerate(found):
        assert one["categorical"].shape == (batch, len(tables))
        remaining = min(batch, SAMPLES - step * batch)
        for source in range(size):
            first, count = partition(remaining, step * batch, source, size)
            rows = one["categorical"][source * local : (source + 1) * local].numpy()
            np.testing.assert_array_equal(rows[:count], arrays.ids[first : first + count, tables])
            assert not rows[count:].any()
        first, count = partition(remaining, step * batch, rank, size)
        assert int(one["valid"]) == count
        labels = one["label"][:count, 0]
        np.testing.assert_array_equal(labels, arrays.label[first : first + count])


def epoch(description, **order):
    batches = reader.batches(description, 20, order=reader.EpochOrder(**order))
    return [one["categorical"].numpy() for one in batches]


@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_restart_at_any_step(dataset, seed, shuffled):
    description = dataset[1]["three_file"]
    order = {"shuffle_seed": seed if shuffled else None}
    complete = epoch(description, **order)
    assert len(complete) == SAMPLES // 20
    for step in (4, 11):
        rest = epoch(description, start_step=step, **order)
        assert len(rest) == len(complete) - step
        np.testing.assert_array_equal(rest, complete[step:] or np.empty((0,)))


def test_shuffle_depends_only_on_seed_and_epoch(dataset, seed):
    # Two of the 11! orders are equal with a probability of 2.5e-8.
    description = dataset[1]["three_file"]
    first = epoch(description, shuffle_seed=seed, epoch=0)
    np.testing.assert_array_equal(first, epoch(description, shuffle_seed=seed, epoch=0))
    for other in (
        epoch(description),
        epoch(description, shuffle_seed=seed, epoch=1),
        epoch(description, shuffle_seed=seed + 1),
    ):
        assert any((a != b).any() for a, b in zip(first, other))
        # The same batches, in another order.
        assert {a.tobytes() for a in first} == {b.tobytes() for b in other}


def test_batches_do_not_read_steps_before_the_first(tmp_path, rng):
    arrays = random_arrays(100, rng)
    arrays.ids[5, 0] = 77
    write_raw(tmp_path / "raw.bin", arrays)
    description = open_split(tmp_path / "raw.bin", vocab_sizes=VOCAB_SIZES)
    assert len(list(reader.batches(description, 10, order=reader.EpochOrder(start_step=1)))) == 9
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"sample 5, table 0: .*77"):
        list(reader.batches(description, 10))


def test_batches_of_some_tables_read_only_their_files(dataset, tmp_path):
    arrays, _ = dataset
    write_narrow(tmp_path, arrays, "dense.bin", "category_{}.bin")
    description = open_split(tmp_path, vocab_sizes=VOCAB_SIZES)
    for table in (0, 1, 2, 4, 5, 6):
        (tmp_path / f"category_{table}.bin").unlink()
    (one,) = reader.batches(description, SAMPLES, tables=[3, 7])
    np.testing.assert_array_equal(one["categorical"], arrays.ids[:, [3, 7]])


@pytest.mark.parametrize(("options", "found", "bound"), [
    ({"global_batch_size": 10, "size": 3}, 10, 3),
    ({"global_batch_size": 0}, 0, 1),
    ({"global_batch_size": 231}, 230, 231),
    ({"global_batch_size": 10, "rank": 2, "size": 2}, 2, 2),
    ({"global_batch_size": 10, "order": reader.EpochOrder(24)}, 24, 23),
])  # fmt: skip
def test_batches_refuse_wrong_arguments(dataset, options, found, bound):
    with pytest.raises(DatasetError) as caught:
        reader.batches(dataset[1]["raw"], **options)
    assert (caught.value.found, caught.value.bound) == (found, bound)


def test_batches_refuse_an_unknown_table(dataset):
    with pytest.raises(DatasetError) as caught:
        reader.batches(dataset[1]["raw"], 10, tables=[8])
    assert (caught.value.table, caught.value.bound) == (8, 8)


def test_synthetic_batches_do_not_depend_on_the_ranks(seed):
    def run(rank, size, **options):
        return list(reader.synthetic_batches(VOCAB_SIZES, 480, rank, size, 11, seed, **options))

    complete = run(0, 1)
    assert len(complete) == 11
    for size in (2, 4):
        parts = [run(rank, size) for rank in range(size)]
        for step, one in enumerate(complete):
            for key in ("label", "dense", "categorical"):
                joined = np.concatenate([part[step][key] for part in parts])
                np.testing.assert_array_equal(joined, one[key])
    for step, one in enumerate(run(1, 2, tables=[6, 0])):
        ids = complete[step]["categorical"].numpy()
        np.testing.assert_array_equal(one["categorical"], ids[:, [6, 0]])
        assert int(one["valid"]) == 240
    for one in complete:
        assert (one["categorical"].numpy() < np.array(VOCAB_SIZES)).all()
        assert set(np.unique(one["label"])) == {0.0, 1.0}
    assert any((complete[0]["label"] != complete[1]["label"]).numpy().ravel())
