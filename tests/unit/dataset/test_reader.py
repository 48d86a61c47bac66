"""The reader deals every sample once, to whichever ranks, tables and steps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset import DatasetError, open_split, reader
from dataset.batches import dealt, local_batch_size, steps
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
def dataset(tmp_path_factory):
    arrays = random_arrays(SAMPLES, seed=5)
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


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 400), st.integers(1, 40), st.integers(1, 9))
def test_every_sample_is_dealt_once(samples, local, size):
    batch = local * size
    assert local_batch_size(batch, size) == local
    seen = []
    for step in range(steps(samples, batch, drop_remainder=False)):
        remaining = min(batch, samples - step * batch)
        shares = [dealt(remaining, step * batch, rank, size) for rank in range(size)]
        assert max(count for _, count in shares) <= local
        assert max(c for _, c in shares) - min(c for _, c in shares) <= 1
        for first, count in shares:
            seen += range(first, first + count)
    assert seen == list(range(samples))
    full = steps(samples, batch, drop_remainder=True)
    assert full * batch <= samples < (full + 1) * batch


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 60), st.integers(1, 5), st.sampled_from(["three_file", "per_table", "raw"]))
def test_ranks_together_read_everything_once(dataset, local, size, layout):
    arrays, descriptions = dataset
    batch = local * size
    per_rank = [
        list(reader.batches(descriptions[layout], batch, rank, size, drop_remainder=False))
        for rank in range(size)
    ]
    assert {len(one) for one in per_rank} == {reader.steps(SAMPLES, batch, False)}
    ids, labels = [], []
    for step in zip(*per_rank):
        for one in step:
            valid = int(one["valid"])
            assert one["categorical"].shape == (local, len(VOCAB_SIZES))
            assert one["dense"].shape == (local, 13)
            assert one["label"].shape == (local, 1)
            for padded in ("label", "dense", "categorical"):
                assert not one[padded][valid:].numpy().any()
            ids.append(one["categorical"][:valid])
            labels.append(one["label"][:valid, 0])
    np.testing.assert_array_equal(np.concatenate(ids), arrays.ids)
    np.testing.assert_array_equal(np.concatenate(labels), arrays.label)


@pytest.mark.parametrize("layout", ["three_file", "per_table", "raw"])
@pytest.mark.parametrize("tables", [[0], [6, 1], [2, 3, 4], list(range(8)), []])
def test_tables_at_the_global_batch_equal_all_ranks_slices(dataset, layout, tables):
    _, descriptions = dataset
    size, batch = 3, 60
    local = batch // size
    slices = [
        list(reader.batches(descriptions[layout], batch, rank, size, drop_remainder=False))
        for rank in range(size)
    ]
    for rank in range(size):
        wide = list(
            reader.batches(
                descriptions[layout], batch, rank, size, tables=tables, drop_remainder=False
            )
        )
        assert len(wide) == 4
        for step, one in enumerate(wide):
            assert one["categorical"].shape == (batch, len(tables))
            for source in range(size):
                rows = one["categorical"][source * local : (source + 1) * local].numpy()
                expected = slices[source][step]["categorical"].numpy()[:, tables]
                np.testing.assert_array_equal(rows, expected)
            np.testing.assert_array_equal(one["label"], slices[rank][step]["label"])
            np.testing.assert_array_equal(one["dense"], slices[rank][step]["dense"])
            assert int(one["valid"]) == int(slices[rank][step]["valid"])


def test_training_slices_are_the_seed_benchmarks(dataset):
    arrays, descriptions = dataset
    for rank in range(4):
        for step, one in enumerate(reader.batches(descriptions["per_table"], 40, rank, 4)):
            first = step * 40 + rank * 10
            np.testing.assert_array_equal(one["categorical"], arrays.ids[first : first + 10])
        assert step == 4


def epoch(description, **order):
    batches = reader.batches(description, 20, order=reader.EpochOrder(**order))
    return [one["categorical"].numpy() for one in batches]


def test_restart_at_a_step_goes_on_exactly(dataset):
    description = dataset[1]["three_file"]
    for seed in (None, 7):
        whole = epoch(description, shuffle_seed=seed)
        for step in (0, 1, 10, 11):
            rest = epoch(description, shuffle_seed=seed, start_step=step)
            assert len(rest) == len(whole) - step
            np.testing.assert_array_equal(rest, whole[step:] or np.empty((0,)))


def test_shuffle_is_a_pure_function_of_seed_and_epoch(dataset):
    description = dataset[1]["three_file"]
    plain = epoch(description)
    first = epoch(description, shuffle_seed=1, epoch=0)
    np.testing.assert_array_equal(first, epoch(description, shuffle_seed=1, epoch=0))
    for other in (
        plain,
        epoch(description, shuffle_seed=1, epoch=1),
        epoch(description, shuffle_seed=2),
    ):
        assert any((a != b).any() for a, b in zip(first, other))
        # The same batches, in another order.
        assert {a.tobytes() for a in first} == {b.tobytes() for b in other}


def test_what_came_before_is_not_read(tmp_path):
    arrays = random_arrays(100)
    arrays.ids[5, 0] = 77
    write_raw(tmp_path / "raw.bin", arrays)
    description = open_split(tmp_path / "raw.bin", vocab_sizes=VOCAB_SIZES)
    assert len(list(reader.batches(description, 10, order=reader.EpochOrder(start_step=1)))) == 9
    with pytest.raises(Exception, match="sample 5, table 0: id 77 is outside its vocabulary"):
        list(reader.batches(description, 10))


def test_only_the_tables_files_are_touched(dataset, tmp_path):
    arrays, _ = dataset
    write_narrow(tmp_path, arrays, "dense.bin", "category_{}.bin")
    description = open_split(tmp_path, vocab_sizes=VOCAB_SIZES)
    for table in (0, 1, 2, 4, 5, 6):
        (tmp_path / f"category_{table}.bin").unlink()
    (one,) = reader.batches(description, SAMPLES, tables=[3, 7])
    np.testing.assert_array_equal(one["categorical"], arrays.ids[:, [3, 7]])


@pytest.mark.parametrize(("options", "message"), [
    ({"global_batch_size": 10, "size": 3}, "10 is not divisible by 3 ranks"),
    ({"global_batch_size": 0}, "both must be at least 1"),
    ({"global_batch_size": 231}, "holds 230 samples, fewer than one global batch of 231"),
    ({"global_batch_size": 10, "rank": 2, "size": 2}, "rank 2: expected 0 to 1"),
    ({"global_batch_size": 10, "tables": [8]}, "table 8: .* has tables 0 to 7"),
    ({"global_batch_size": 10, "order": reader.EpochOrder(24)}, "start step 24: expected 0 to 23"),
])  # fmt: skip
def test_wrong_arguments(dataset, options, message):
    with pytest.raises(DatasetError, match=message):
        reader.batches(dataset[1]["raw"], **options)


def test_synthetic_batches_do_not_depend_on_the_ranks():
    def run(rank, size, **options):
        return list(reader.synthetic_batches(VOCAB_SIZES, 48, rank, size, 11, seed=3, **options))

    whole = run(0, 1)
    assert len(whole) == 11
    for size in (2, 4):
        parts = [run(rank, size) for rank in range(size)]
        for step, one in enumerate(whole):
            for key in ("label", "dense", "categorical"):
                joined = np.concatenate([part[step][key] for part in parts])
                np.testing.assert_array_equal(joined, one[key])
    for step, one in enumerate(run(1, 2, tables=[6, 0])):
        ids = whole[step]["categorical"].numpy()
        np.testing.assert_array_equal(one["categorical"], ids[:, [6, 0]])
        assert int(one["valid"]) == 24
    for one in whole:
        assert (one["categorical"].numpy() < np.array(VOCAB_SIZES)).all()
        assert set(np.unique(one["label"])) == {0.0, 1.0}
    assert any((whole[0]["label"] != whole[1]["label"]).numpy().ravel())
