"""Splits that are written from arrays."""

import os

import numpy as np
import pytest

from dataset import DatasetError, open_split, validate
from dataset.chunks import CHUNK_SAMPLES
from dataset.split_writer import SplitWriter
from ops.bags import MAX_HOTNESS, Bags
from tests.support.dataset import multi_hot
from tests.support.dataset.multi_hot import FIXED, VARIABLE, VOCAB_SIZES, random_samples

#: Longer lists are allowed than occur.
ALLOWED = Bags((1, 3, 50, 9, 7), VARIABLE.pooling, VARIABLE.variable)


def add_all(writer, drawn, cuts):
    """Adds samples in batches that are cut at some samples."""
    ends = [0, *cuts, len(drawn.label)]
    for begin, end in zip(ends, ends[1:]):
        ids = []
        for one in drawn.ids:
            if isinstance(one, tuple):
                values, lengths = one
                starts = np.cumsum([0, *lengths])
                ids.append((values[starts[begin] : starts[end]], lengths[begin:end]))
            else:
                ids.append(one[begin:end])
        writer.add(drawn.label[begin:end], drawn.dense[begin:end], ids)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".bin"}


@pytest.mark.parametrize("samples", [1, CHUNK_SAMPLES, CHUNK_SAMPLES + 4001])
def test_written_lists_equal_hand_written_ones(tmp_path, rng, samples):
    drawn = random_samples(rng, max(samples, 2), VARIABLE)
    drawn = multi_hot.first(drawn, samples)
    multi_hot.write_per_table(tmp_path / "a", drawn)
    with SplitWriter(tmp_path / "b", VOCAB_SIZES, ALLOWED) as writer:
        add_all(writer, drawn, sorted(rng.integers(0, samples, 5, endpoint=True)))
        assert not (tmp_path / "b" / "label.bin").exists()
    expected, stored = content(tmp_path / "a"), content(tmp_path / "b")
    # NumPy's float32 and float64 logarithms may round to different halves.
    halves = [np.frombuffer(files.pop("dense.bin"), np.float16) for files in (expected, stored)]
    np.testing.assert_allclose(halves[1], halves[0], rtol=2**-10)
    assert stored == expected
    found = open_split(tmp_path / "b")
    if samples > 1:
        assert found.bags == VARIABLE  # the longest list of each feature
    assert found.applied_transform == "log(x+1)"
    assert validate.validate(found, progress=False)[1] == []


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int64", "uint64"])
def test_one_call_with_any_integers_writes_all_chunks(tmp_path, rng, dtype):
    drawn = random_samples(rng, 2 * CHUNK_SAMPLES + 7, VARIABLE)
    drawn = drawn._replace(ids=[
        (ids[0] % 100, ids[1]) if isinstance(ids, tuple) else ids % 100 for ids in drawn.ids
    ])  # fmt: skip
    given = [
        (ids[0].astype(dtype), ids[1].astype("uint8")) if isinstance(ids, tuple)
        else ids.astype(dtype)
        for ids in drawn.ids
    ]  # fmt: skip
    multi_hot.write_per_table(tmp_path / "a", drawn)
    with SplitWriter(tmp_path / "b", VOCAB_SIZES, ALLOWED) as writer:
        writer.add(drawn.label.astype(dtype), drawn.dense, given)
    expected, found = content(tmp_path / "a"), content(tmp_path / "b")
    del expected["dense.bin"], found["dense.bin"]
    assert found == expected
    assert validate.validate(open_split(tmp_path / "b"), progress=False)[1] == []


def test_lists_may_all_be_empty(tmp_path):
    with SplitWriter(tmp_path, [9, 5], Bags.of([4, 2], variable=[True, False])) as writer:
        for samples in (3, 0, CHUNK_SAMPLES):
            nothing = np.zeros(0, np.int64), np.zeros(samples, np.int64)
            dense = np.ones((samples, 13), np.int32)
            writer.add(np.ones(samples, int), dense, [nothing, np.ones((samples, 2), int)])
    found = open_split(tmp_path)
    assert (tmp_path / "category_0.bin").read_bytes() == b""
    offsets = np.fromfile(tmp_path / "category_0_offsets.bin", np.int64)
    np.testing.assert_array_equal(offsets, np.zeros(CHUNK_SAMPLES + 4))
    lines, problems = validate.validate(found, progress=False)
    assert problems == []
    assert "no ids of 9 rows" in lines[-2]


@pytest.mark.parametrize("dense", ["int32", "float32"])
def test_written_three_file_split_equals_the_samples(tmp_path, rng, dense):
    drawn = random_samples(rng, 500)
    values = drawn.dense.astype(dense) + np.array(0.5).astype(dense)
    transform = "log(x+3)" if dense == "int32" else "none"
    options = {"dense_dtype": dense, "dense_transform": transform, "layout": "three_file"}
    with SplitWriter(tmp_path, VOCAB_SIZES, FIXED, **options) as writer:
        add_all(writer, drawn._replace(dense=values), [200])
    found = open_split(tmp_path)
    assert (found.bags, found.dense_transform) == (FIXED, transform)
    assert (tmp_path / "category.bin").read_bytes() == drawn.matrix.tobytes()
    assert (tmp_path / "dense.bin").read_bytes() == values.tobytes()


def test_writer_replaces_only_with_overwrite(tmp_path, rng):
    drawn = random_samples(rng, 20, VARIABLE)
    for overwrite in (False, True):
        with SplitWriter(tmp_path, VOCAB_SIZES, VARIABLE, overwrite=overwrite) as writer:
            add_all(writer, drawn, [])
    with pytest.raises(DatasetError, match="--overwrite"):
        SplitWriter(tmp_path, VOCAB_SIZES, VARIABLE).__enter__()
    # A split without lists: their files are removed.
    with SplitWriter(tmp_path, VOCAB_SIZES, FIXED, overwrite=True) as writer:
        add_all(writer, random_samples(rng, 20), [])
    assert not list(tmp_path.glob("*offsets*"))


def test_nothing_remains_after_an_error(tmp_path, rng):
    with pytest.raises(ZeroDivisionError), SplitWriter(tmp_path, VOCAB_SIZES, VARIABLE) as writer:
        add_all(writer, random_samples(rng, 20, VARIABLE), [])
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def replaced(drawn, table, ids):
    return drawn._replace(ids=[*drawn.ids[:table], ids, *drawn.ids[table + 1 :]])


def with_list(drawn, sample, ids):
    values, lengths = drawn.ids[2]
    begin, end = lengths[:sample].sum(), lengths[: sample + 1].sum()
    lengths = lengths.copy()
    lengths[sample] = len(ids)
    return replaced(drawn, 2, (np.concatenate([values[:begin], ids, values[end:]]), lengths))


# {case: (change of the samples, message)}.
WRONG = {
    "label": (lambda d: d._replace(label=d.label + 2), "label: expected 0 or 1"),
    "dense dtype": (lambda d: d._replace(dense=d.dense.astype(float)), "dtype of dense"),
    "dense shape": (lambda d: d._replace(dense=d.dense[:, :5]), r"dense: expected \[30, 13\]"),
    "too few features": (lambda d: d._replace(ids=d.ids[:4]), "features with ids: expected 5"),
    "one id": (lambda d: replaced(d, 1, d.ids[1][:, :1]), r"table 1: expected \[30, 3\]"),
    "two labels": (
        lambda d: d._replace(label=np.stack([d.label] * 2, 1)),
        r"shape of label: expected \[n\], found \[30, 2\]",
    ),
    "no labels": (lambda d: d._replace(label=1), r"shape of label: expected \[n\], found \[\]"),
    "ragged labels": (
        lambda d: d._replace(label=[[1], [0, 1]] * 15), "label: expected an array, found a list"
    ),
    "text labels": (lambda d: d._replace(label=["1"] * 30), "dtype of label: expected integers"),
    "ragged dense": (
        lambda d: d._replace(dense=[*d.dense[1:].tolist(), [1, 2]]),
        "dense: expected an array, found a list",
    ),
    "dense lists": (lambda d: d._replace(dense=d.dense.tolist()), "dtype of dense: .*found int64"),
    "text dense": (lambda d: d._replace(dense=d.dense.astype(str)), "dtype of dense"),
    "no list of features": (lambda d: d._replace(ids=iter(d.ids)), "ids: expected a list of the"),
    "nothing": (lambda d: d._replace(ids=None), "ids: expected a list of the ids of each feature"),
    "lists for an array": (
        lambda d: replaced(d, 1, (d.ids[1].ravel(), np.full(30, 3))),
        "ids of table 1: expected one array, found a tuple",
    ),
    "ragged array": (
        lambda d: replaced(d, 1, [[1, 2, 3], [1]] * 15), "ids of table 1: expected an array, found"
    ),
    "text ids": (
        lambda d: replaced(d, 1, d.ids[1].astype(str)), "dtype of table 1: expected integers"
    ),
    "missing ids": (lambda d: replaced(d, 1, None), r"shape of table 1: .*found \[\]"),
    "three arrays": (
        lambda d: replaced(d, 2, (*d.ids[2], d.ids[2][1])),
        "table 2: expected ids and the lengths of lists, found a tuple of 3",
    ),
    "ragged values": (
        lambda d: replaced(d, 2, ([[1, 2], [1]], d.ids[2][1])),
        "ids of table 2: expected an array, found a list",
    ),
    "ragged lengths": (
        lambda d: replaced(d, 2, (d.ids[2][0], [[1], [1, 2]])),
        "lengths of table 2: expected an array, found a list",
    ),
    "text values": (
        lambda d: replaced(d, 2, (d.ids[2][0].astype(str), d.ids[2][1])), "dtype of table 2"
    ),
    "no values": (lambda d: replaced(d, 2, (None, d.ids[2][1])), "shapes of table 2"),
    "array for lists": (lambda d: replaced(d, 2, d.ids[2][0]), "table 2: expected ids and the len"),
    "float ids": (lambda d: replaced(d, 4, d.ids[4] / 2), "dtype of table 4: expected integers"),
    "sum": (
        lambda d: replaced(d, 2, (d.ids[2][0][1:], d.ids[2][1])), "sum of the lengths of table 2"
    ),
    "negative length": (
        lambda d: replaced(d, 2, (d.ids[2][0], d.ids[2][1] - 5)), "length of a list .*at least 0"
    ),
    "float lengths": (
        lambda d: replaced(d, 2, (d.ids[2][0], d.ids[2][1] / 1)), "lengths of table 2.*integers"
    ),
    "long list": (lambda d: with_list(d, 7, range(5)), "table 2, sample 7: ids: .*at most 4"),
    "large id": (lambda d: with_list(d, 9, [1, 40000]), "table 2, sample 9: id: .*found 40000"),
    "wide label": (
        lambda d: d._replace(label=d.label.astype(np.int64) + 2**32), "sample 0: label: .*4294967"
    ),
    "wide id in a list": (
        lambda d: with_list(d, 9, [1, 2**32 + 1]), "table 2, sample 9: id: .*found 4294967297"
    ),
    "unsigned id": (
        lambda d: replaced(d, 4, d.ids[4].astype(np.uint32) + np.uint32(2**32 - 3)),
        r"table 4, sample 0: id: expected 0 to 2, found 429496729\d",
    ),
    "empty slot": (lambda d: with_list(d, 9, [1, -1]), "table 2, sample 9: id: .*found -1"),
    "wide id": (
        lambda d: replaced(d, 4, d.ids[4].astype(np.int64) + 2**32), r"table 4.*found 42949672\d\d"
    ),
}  # fmt: skip


#: Cases of invalid int32 values, which are checked when a chunk is complete.
VALUES = ("label", "large id", "empty slot")


@pytest.mark.parametrize("case", WRONG)
def test_writer_refuses_invalid_samples(tmp_path, rng, case):
    change, message = WRONG[case]
    drawn = change(random_samples(rng, 30, VARIABLE))
    writer = SplitWriter(tmp_path, VOCAB_SIZES, VARIABLE)
    with pytest.raises(DatasetError, match=message) as caught, writer:
        writer.add(drawn.label, drawn.dense, drawn.ids)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("case", [c for c in WRONG if c not in VALUES])
def test_refused_call_adds_no_samples(tmp_path, rng, case):
    good = random_samples(rng, 40, VARIABLE)
    # Longer lists than in the good samples: they must not count as the longest.
    long = random_samples(rng, 30, ALLOWED)
    bad = WRONG[case][0](long if case != "long list" else random_samples(rng, 30, VARIABLE))
    allowed = VARIABLE if case == "long list" else ALLOWED
    with SplitWriter(tmp_path / "a", VOCAB_SIZES, allowed) as writer:
        add_all(writer, good, [10])
        with pytest.raises(DatasetError):
            writer.add(bad.label, bad.dense, bad.ids)
        add_all(writer, good, [])
    with SplitWriter(tmp_path / "b", VOCAB_SIZES, allowed) as writer:
        add_all(writer, good, [])
        add_all(writer, good, [])
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert open_split(tmp_path / "a").bags == open_split(tmp_path / "b").bags == VARIABLE


def test_tuple_with_the_shape_of_the_ids_is_refused(tmp_path):
    """Two samples of two ids: (ids, lengths) has the shape of one array."""
    writer = SplitWriter(tmp_path, [9], Bags.of([2]))
    message = "ids of table 0: expected one array, found a tuple"
    with pytest.raises(DatasetError, match=message), writer:
        writer.add(np.ones(2, int), np.ones((2, 13), np.int32), [(np.ones(2, int),) * 2])


def test_labels_may_be_a_column_and_lengths_any_integers(tmp_path, rng):
    drawn = random_samples(rng, 50, VARIABLE)
    ids = [(one[0], one[1].astype("uint64")) if isinstance(one, tuple) else one.tolist()
           for one in drawn.ids]  # fmt: skip
    with SplitWriter(tmp_path / "a", VOCAB_SIZES, VARIABLE) as writer:
        writer.add(drawn.label[:, None], drawn.dense, ids)
    with SplitWriter(tmp_path / "b", VOCAB_SIZES, VARIABLE) as writer:
        add_all(writer, drawn, [])
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_longest_supported_list_is_written_and_read(tmp_path, rng):
    bags = Bags.of([MAX_HOTNESS, 1], variable=[True, False])
    label, dense, one = np.ones(1, int), np.ones((1, 13), np.int32), np.zeros((1, 1), int)
    ids = rng.integers(0, 9, MAX_HOTNESS + 1)
    with SplitWriter(tmp_path, [9, 5], bags) as writer:
        with pytest.raises(DatasetError, match=r"table 0, sample 0: ids: .*at most 65536.*65537"):
            writer.add(label, dense, [(ids, [MAX_HOTNESS + 1]), one])
        writer.add(label, dense, [(ids[:-1], [MAX_HOTNESS]), one])
    found = open_split(tmp_path)
    assert (found.bags, found.samples) == (bags, 1)
    assert (tmp_path / "category_0.bin").read_bytes() == ids[:-1].astype(np.int8).tobytes()


def test_writer_refuses_an_empty_split_and_a_fixed_layout(tmp_path):
    writer = SplitWriter(tmp_path, VOCAB_SIZES, VARIABLE)
    with pytest.raises(DatasetError, match="samples: expected at least 1"), writer:
        pass
    with pytest.raises(DatasetError, match="lists of fixed length"):
        SplitWriter(tmp_path, VOCAB_SIZES, VARIABLE, layout="three_file")
