"""Batches with several ids per feature."""

import numpy as np
import pytest
import tensorflow as tf

from dataset import DatasetError, open_split, reader
from dataset.batches import partition
from dataset.hotness import of_both
from dataset.stored_types import Declared
from ops.bags import EMPTY, Bags
from tests.support.dataset import multi_hot
from tests.support.dataset.multi_hot import FIXED, VARIABLE, VOCAB_SIZES, random_samples

SAMPLES = 230
#: More slots for the lists, as another split may need.
WIDER = Bags((1, 3, 6, 3, 7), VARIABLE.pooling, VARIABLE.variable)


@pytest.fixture(scope="module")
def splits(tmp_path_factory, shared_rng):
    """{name: (samples, description)}."""
    rng, root = shared_rng("test_multi_hot_reader"), tmp_path_factory.mktemp("reader")
    fixed, variable = random_samples(rng, SAMPLES), random_samples(rng, SAMPLES, VARIABLE)
    multi_hot.write_raw(root / "raw.bin", fixed)
    multi_hot.write_three_file(root / "three_file", fixed)
    multi_hot.write_per_table(root / "per_table", fixed)
    multi_hot.write_per_table(root / "lists", variable)
    declared = Declared(hotness=FIXED.hotness)
    raw = open_split(root / "raw.bin", vocab_sizes=VOCAB_SIZES, declared=declared)
    return {
        "raw": (fixed, raw),
        "three_file": (fixed, open_split(root / "three_file")),
        "per_table": (fixed, open_split(root / "per_table")),
        "lists": (variable, open_split(root / "lists")),
    }


def padded(drawn, bags):
    """The ids of samples in the slots of `bags`."""
    return drawn._replace(bags=bags).matrix


def remainder(bags):
    """The slots of a row without a sample."""
    return np.array([EMPTY if bags.variable[f] else 0 for f in bags.feature_of_slots()])


@pytest.mark.parametrize("name", ["raw", "three_file", "per_table", "lists", "wider"])
def test_batches_of_all_ranks_hold_every_sample_once(splits, name):
    drawn, description = splits["lists" if name == "wider" else name]
    bags = WIDER if name == "wider" else None
    slots = bags or description.bags
    local, size = 25, 3  # the last of 4 batches has 5 samples: 2, 2 and 1
    found = []
    per_rank = [
        reader.batches(description, local * size, rank, size, bags=bags, drop_remainder=False)
        for rank in range(size)
    ]
    for step in zip(*per_rank):
        for one in step:
            valid, ids = int(one["valid"]), one["categorical"].numpy()
            assert ids.shape == (local, slots.slots)
            assert ids.dtype == np.int32
            assert (ids[valid:] == remainder(slots)).all()
            found.append(ids[:valid])
    np.testing.assert_array_equal(np.concatenate(found), padded(drawn, slots))


@pytest.mark.parametrize("tables", [[3, 1], [2], [4, 3, 2, 1, 0], [0, 1, 2, 3, 4], []])
@pytest.mark.parametrize("name", ["raw", "per_table", "lists", "wider"])
def test_batches_of_some_tables_hold_their_slots(splits, name, tables):
    drawn, description = splits["lists" if name == "wider" else name]
    bags = WIDER if name == "wider" else None
    slots = bags or description.bags
    size, batch, rank = 2, 60, 1
    options = {"tables": tables, "bags": bags, "drop_remainder": False}
    chosen = slots.slots_of(tables)
    expected, rest = padded(drawn, slots)[:, chosen], remainder(slots)[chosen]
    batches = list(reader.batches(description, batch, rank, size, **options))
    assert len(batches) == 4
    for step, one in enumerate(batches):
        ids = one["categorical"].numpy()
        assert ids.shape == (batch, slots.select(tables).slots)
        for source in range(size):
            first, count = partition(min(batch, SAMPLES - step * batch), step * batch, source, size)
            rows = ids[source * batch // size : (source + 1) * batch // size]
            np.testing.assert_array_equal(rows[:count], expected[first : first + count])
            assert (rows[count:] == rest).all()


def test_train_and_test_batches_have_the_same_slots(tmp_path, rng):
    drawn = [random_samples(rng, 40, VARIABLE), random_samples(rng, 30, WIDER)]
    for name, part in zip("ab", drawn):
        multi_hot.write_per_table(tmp_path / name, part)
    found = [open_split(tmp_path / name) for name in "ab"]
    slots = of_both(found[0].bags, found[1].bags, "data")
    for part, description in zip(drawn, found):
        (one,) = reader.batches(description, description.samples, bags=slots)
        np.testing.assert_array_equal(one["categorical"], padded(part, slots))


@pytest.mark.parametrize(("name", "bags", "table"), [
    ("lists", Bags((1, 3, 3, 2, 7), FIXED.pooling, VARIABLE.variable), 2),  # shorter lists
    ("lists", Bags((1, 4, 4, 2, 7), FIXED.pooling, VARIABLE.variable), 1),
    ("lists", FIXED, 2), ("per_table", VARIABLE, 2),
    ("per_table", Bags.of([1, 3, 4, 2, 8]), 4), ("per_table", Bags.of([1, 3, 4, 2]), None),
])  # fmt: skip
def test_batches_refuse_slots_that_do_not_fit(splits, name, bags, table):
    with pytest.raises(DatasetError) as caught:
        reader.batches(splits[name][1], 10, bags=bags)
    assert caught.value.table == table


@pytest.mark.parametrize("name", ["three_file", "per_table", "lists"])
def test_invalid_id_names_table_and_sample(tmp_path, rng, name):
    drawn = random_samples(rng, 50, VARIABLE if name == "lists" else FIXED)
    drawn.ids[1][33, 2] = 200
    write = multi_hot.write_three_file if name == "three_file" else multi_hot.write_per_table
    write(tmp_path, drawn)
    message = r"category(_1)?\.bin: sample 33, table 1: id 200 .*0 to 199"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(reader.batches(open_split(tmp_path), 10))


def test_synthetic_batches_do_not_depend_on_the_ranks(seed):
    def run(rank, size, **options):
        return list(
            reader.synthetic_batches(VOCAB_SIZES, 480, rank, size, 3, seed, bags=WIDER, **options)
        )

    complete = [one["categorical"].numpy() for one in run(0, 1)]
    parts = [run(rank, 2) for rank in range(2)]
    for step, ids in enumerate(complete):
        joined = np.concatenate([part[step]["categorical"] for part in parts])
        np.testing.assert_array_equal(joined, ids)
    for step, one in enumerate(run(1, 2, tables=[3, 0])):
        np.testing.assert_array_equal(one["categorical"], complete[step][:, WIDER.slots_of([3, 0])])
    assert any((a != b).any() for a, b in zip(complete, complete[1:]))
    bounds = np.array([VOCAB_SIZES[f] for f in WIDER.feature_of_slots()])
    for ids in complete:
        assert ids.shape == (480, WIDER.slots)
        assert (ids < bounds).all()
        for feature, first in enumerate(WIDER.first_slots):
            slots = ids[:, first : first + WIDER.hotness[feature]]
            lengths = (slots != EMPTY).sum(axis=1)
            # Lists fill their slots from the left, and have every length.
            assert ((slots != EMPTY) == (np.arange(slots.shape[1]) < lengths[:, None])).all()
            assert (slots >= EMPTY).all()
            least = 0 if WIDER.variable[feature] else WIDER.hotness[feature]
            assert set(lengths) == set(range(least, WIDER.hotness[feature] + 1))


def test_synthetic_batches_of_one_id_are_unchanged(seed):
    batches = [
        list(reader.synthetic_batches(VOCAB_SIZES, 60, 0, 1, 2, seed, bags=bags))
        for bags in (None, Bags.one_hot(5))
    ]
    for one, other in zip(*batches):
        np.testing.assert_array_equal(one["categorical"], other["categorical"])
    # Each table's ids come from a generator of its own.
    drawn = np.random.default_rng([seed, 1, 1 + 2]).integers(0, VOCAB_SIZES[2], 60, np.int32)
    np.testing.assert_array_equal(batches[0][1]["categorical"][:, 2], drawn)
    with pytest.raises(DatasetError):
        reader.synthetic_batches(VOCAB_SIZES, 60, 0, 1, 2, seed, bags=Bags.one_hot(4))
