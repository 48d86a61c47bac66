"""Splits with several ids per feature: layouts, conversions, checks of values and digests."""

import dataclasses
import json

import numpy as np
import pytest

import split_bin
from dataset import DatasetError, convert, metadata, open_dataset, open_split, validate
from dataset.chunks import ChunkReader
from dataset.stored_types import Declared
from tests.support.dataset import multi_hot
from tests.support.dataset.multi_hot import FIXED, VARIABLE, VOCAB_SIZES, random_samples

HOTNESS = ",".join(map(str, FIXED.hotness))
POOLING = ",".join(FIXED.pooling)
#: More than one chunk.
LARGE = 70_001


def run(tool, *arguments):
    return tool.main([str(argument) for argument in arguments])


def run_convert(description, folder):
    return convert.convert_split(description, str(folder), "per_table", progress=False)


def stored_bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.bin"))}


def matrix_of(description):
    """Returns a split's ids [n, W], with -1 after lists."""
    parts = []
    with ChunkReader(description) as reader:
        chunk = reader.read(0, description.samples)
        for index, column in enumerate(description.table_columns):
            ids = chunk.ids[index].astype(np.int32)
            if column.offsets:
                lengths = np.diff(chunk.boundaries[index])
                (hotness,) = column.features.hotness
                part = np.full((description.samples, hotness), -1, np.int32)
                part[np.arange(hotness) < lengths[:, None]] = ids[:, 0]
                ids = part
            parts.append(ids)
    return np.hstack(parts)


def bare_per_table(root, drawn):
    multi_hot.write_narrow(root, drawn, "dense.bin", "category_{}.bin")
    return root


def mlperf(root, drawn):
    multi_hot.write_narrow(root, drawn, "numerical.bin", "cat_{}.bin")
    drawn.label.astype(np.float32).tofile(root / "label.bin")
    drawn.dense.astype(np.float32).tofile(root / "numerical.bin")
    for table, ids in enumerate(drawn.ids):
        ids.tofile(root / f"cat_{table}.bin")
    return root


def deep_learning_examples(root, drawn):
    multi_hot.write_narrow(root, drawn, "numerical.bin", "cat_{}.bin")
    return root


def raw(root, drawn):
    multi_hot.write_raw(root / "raw.bin", drawn)
    return root / "raw.bin"


@pytest.mark.parametrize("write", [bare_per_table, mlperf, deep_learning_examples, raw])
def test_declared_hotness_opens_files_that_do_not_record_it(tmp_path, rng, write):
    drawn = random_samples(rng, 97)
    path = write(tmp_path / "a", drawn)
    declared = Declared(hotness=FIXED.hotness, pooling=FIXED.pooling)
    found = open_split(path, vocab_sizes=VOCAB_SIZES, declared=declared)
    assert found.bags == FIXED
    np.testing.assert_array_equal(matrix_of(found), drawn.matrix)
    one_hot = [1] * len(VOCAB_SIZES)
    with pytest.raises(DatasetError):
        open_split(path, vocab_sizes=VOCAB_SIZES, declared=Declared(hotness=one_hot))


def test_seed_metadata_gives_the_hotness_of_column_files(tmp_path, rng):
    drawn = random_samples(rng, 97)
    multi_hot.write_three_file(tmp_path / "train", drawn)
    multi_hot.write_three_file(tmp_path / "test", drawn)
    (tmp_path / "test" / "metadata.json").unlink()
    for found in open_dataset(tmp_path):
        assert found.bags.hotness == FIXED.hotness
        assert set(found.bags.pooling) == {"sum"}
        np.testing.assert_array_equal(matrix_of(found), drawn.matrix)
    (found, _) = open_dataset(tmp_path, declared=Declared(pooling=["mean"]))
    assert set(found.bags.pooling) == {"mean"}


def test_metadata_next_to_raw_files_gives_sizes_and_hotness(tmp_path, rng):
    drawn = random_samples(rng, 97)
    for name in ("train_data.bin", "test_data.bin"):
        multi_hot.write_raw(tmp_path / name, drawn)
    content = {"vocab_sizes": VOCAB_SIZES, "hotness_per_table": list(FIXED.hotness)}
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    for found in open_dataset(tmp_path):
        assert (found.vocab_sizes, found.bags.hotness) == (VOCAB_SIZES, FIXED.hotness)
        np.testing.assert_array_equal(matrix_of(found), drawn.matrix)


def test_metadata_without_hotness_next_to_a_raw_file_is_ignored(tmp_path, rng):
    multi_hot.write_raw(tmp_path / "raw.bin", random_samples(rng, 9))
    (tmp_path / "metadata.json").write_text('{"title": "mine"}')
    declared = Declared(hotness=FIXED.hotness)
    assert open_split(tmp_path / "raw.bin", vocab_sizes=VOCAB_SIZES, declared=declared).samples == 9


def test_own_metadata_describes_lists(tmp_path, rng):
    drawn = random_samples(rng, 97, VARIABLE)
    content = multi_hot.write_per_table(tmp_path, drawn)
    found = open_split(tmp_path)
    assert (found.bags, found.samples, found.layout) == (VARIABLE, 97, "per_table")
    assert found.fingerprint == content["fingerprint"]
    np.testing.assert_array_equal(matrix_of(found), drawn.matrix)


def test_mlperf_hotness_reads_raw_records(tmp_path, rng):
    sizes = rng.integers(3, 300, 26).tolist()
    hotness = [3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1]
    drawn = random_samples(rng, 40, FIXED.of(hotness), sizes)
    multi_hot.write_raw(tmp_path / "raw.bin", drawn)
    with pytest.raises(DatasetError, match="--hotness mlperf"):
        open_split(tmp_path / "raw.bin", vocab_sizes=sizes)
    arguments = (tmp_path / "raw.bin", tmp_path / "out", "--hotness", "mlperf")
    assert run(split_bin, *arguments, "--vocab_sizes", str(sizes)) == 0
    found = open_split(tmp_path / "out")
    assert found.bags.hotness == tuple(hotness)
    np.testing.assert_array_equal(matrix_of(found), drawn.matrix)


@pytest.mark.parametrize("layouts", [("three_file", "per_table"), ("per_table", "raw")])
def test_fixed_layouts_round_trip_byte_for_byte(tmp_path, rng, layouts):
    drawn = random_samples(rng, LARGE)
    for name in ("train_data.bin", "test_data.bin"):
        multi_hot.write_raw(tmp_path / "raw" / name, drawn)
    (tmp_path / "raw" / "vocab_sizes.json").write_text(json.dumps(VOCAB_SIZES))
    flags = ("--hotness", HOTNESS, "--pooling", POOLING)
    first, second = layouts
    if second == "raw":  # Counts stay counts only in three_file.
        first = "three_file"
    for before, after, to, more in (
        ("raw", "a", first, flags), ("a", "b", second, ()), ("b", "c", first, ())
    ):  # fmt: skip
        if (before, to) == ("b", "three_file") and second == "per_table":
            to = "per_table"
        assert run(convert, tmp_path / before, tmp_path / after, "--layout", to, *more) == 0
    a, b, c = (stored_bytes(tmp_path / name) for name in "abc")
    assert c == (a if second == "raw" else b)
    assert a["train/category.bin"] == drawn.matrix.tobytes()
    train, test = open_dataset(tmp_path / "b")
    assert train.bags == test.bags == FIXED
    np.testing.assert_array_equal(matrix_of(train), drawn.matrix)
    if second == "raw":
        assert b == stored_bytes(tmp_path / "raw")


def test_per_table_through_three_file_is_unchanged(tmp_path, rng):
    multi_hot.write_per_table(tmp_path / "a", random_samples(rng, LARGE))
    assert run(convert, tmp_path / "a", tmp_path / "b", "--layout", "three_file") == 0
    assert run(convert, tmp_path / "b", tmp_path / "c", "--layout", "per_table") == 0
    for name, content in stored_bytes(tmp_path / "a").items():
        assert (tmp_path / "c" / name).read_bytes() == content
    contents = [metadata.read(str(tmp_path / name)) for name in "ac"]
    assert contents[0] == contents[1]
    stored = json.loads((tmp_path / "b" / "metadata.json").read_text())
    assert stored["format_version"] == 2
    assert stored["hotness_per_table"] == list(FIXED.hotness)


def test_lists_are_copied_byte_for_byte(tmp_path, rng):
    content = multi_hot.write_per_table(tmp_path / "a", random_samples(rng, LARGE, VARIABLE))
    assert run(convert, tmp_path / "a", tmp_path / "b", "--layout", "per_table") == 0
    assert stored_bytes(tmp_path / "a") == stored_bytes(tmp_path / "b")
    assert metadata.read(str(tmp_path / "b")) == content
    # The offsets files are this project's: they may be replaced.
    again = ("--layout", "per_table", "--overwrite")
    assert run(convert, tmp_path / "a", tmp_path / "b", *again) == 0
    assert stored_bytes(tmp_path / "a") == stored_bytes(tmp_path / "b")


def test_lists_in_several_files_form_one_column(tmp_path, rng):
    parts = [random_samples(rng, samples, VARIABLE) for samples in (40, 2, 70)]
    found = []
    for index, part in enumerate(parts):
        multi_hot.write_per_table(tmp_path / str(index), part)
        found.append(open_split(tmp_path / str(index)))
    columns = [
        dataclasses.replace(
            same[0],
            segments=sum((column.segments for column in same), ()),
            offsets=sum((column.offsets for column in same), ()),
        )
        for same in zip(*(one.columns for one in found))
    ]
    joined = dataclasses.replace(found[0], samples=112, columns=tuple(columns))
    expected = np.vstack([part.matrix for part in parts])
    np.testing.assert_array_equal(matrix_of(joined), expected)
    assert run_convert(joined, tmp_path / "all") > 0
    np.testing.assert_array_equal(matrix_of(open_split(tmp_path / "all")), expected)
    with ChunkReader(joined) as reader:
        chunk = reader.read(39, 4)
        for index, feature in ((2, 2), (3, 3)):
            lengths = np.diff(chunk.boundaries[index])
            first, slots = VARIABLE.first_slots[feature], VARIABLE.hotness[feature]
            rows = expected[39:43, first : first + slots]
            np.testing.assert_array_equal(lengths, (rows >= 0).sum(axis=1))
            np.testing.assert_array_equal(chunk.ids[index][:, 0], rows[rows >= 0])


@pytest.mark.parametrize("layout", ["three_file", "raw"])
def test_fixed_layouts_refuse_lists(tmp_path, rng, layout, capsys):
    multi_hot.write_per_table(tmp_path / "a", random_samples(rng, 50, VARIABLE))
    assert run(convert, tmp_path / "a", tmp_path / "b", "--layout", layout) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lists of fixed length, found lists of 0 to 4 ids for table 2" in line
    assert not (tmp_path / "b").exists()


def test_raw_metadata_is_replaced_only_if_it_is_ours(tmp_path, rng, capsys):
    multi_hot.write_three_file(tmp_path / "a" / "train", random_samples(rng, 30))
    multi_hot.write_three_file(tmp_path / "a" / "test", random_samples(rng, 20))
    arguments = (tmp_path / "a", tmp_path / "b", "--layout", "raw", "--dense_transform", "log(x+1)")
    assert run(convert, *arguments) == 0
    assert run(convert, *arguments, "--overwrite") == 0
    side = tmp_path / "b" / "metadata.json"
    assert json.loads(side.read_text())["hotness_per_table"] == list(FIXED.hotness)
    side.write_text(json.dumps({"vocab_sizes": VOCAB_SIZES, "hotness_per_table": [2] * 5}))
    capsys.readouterr()
    assert run(convert, *arguments, "--overwrite") == 2
    assert "metadata.json" in capsys.readouterr().err


def test_split_bin_uses_the_hotness_of_the_train_split(tmp_path, rng, capsys):
    for name in ("train", "test"):
        multi_hot.write_raw(tmp_path / f"{name}.bin", random_samples(rng, 500))
    flags = ("--hotness", HOTNESS, "--pooling", POOLING, "--split_categories")
    assert run(split_bin, tmp_path / "train.bin", tmp_path / "d" / "train", *flags) == 0
    arguments = (tmp_path / "test.bin", tmp_path / "d" / "test", "--split_categories")
    assert run(split_bin, *arguments, "--hotness", "1,1,1,1,1") == 2
    assert "--hotness: expected that of" in capsys.readouterr().err
    assert run(split_bin, *arguments) == 0
    train, test = open_dataset(tmp_path / "d")
    assert train.bags == test.bags == FIXED
    assert train.vocab_sizes == VOCAB_SIZES  # from a scan: the last ids occur


@pytest.mark.parametrize("flags", [(), ("--hotness", HOTNESS)])
def test_split_bin_refuses_a_test_split_of_lists(tmp_path, rng, capsys, flags):
    multi_hot.write_raw(tmp_path / "test.bin", random_samples(rng, 50))
    multi_hot.write_per_table(tmp_path / "d" / "train", random_samples(rng, 50, VARIABLE))
    assert run(split_bin, tmp_path / "test.bin", tmp_path / "d" / "test", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path}/d/train: " in line
    assert "lists of fixed length, found lists of up to 4 ids for table 2" in line
    assert not (tmp_path / "d" / "test").exists()


@pytest.mark.parametrize("layout", ["per_table", "lists", "three_file"])
def test_validate_counts_ids_and_lists(tmp_path, rng, layout):
    drawn = random_samples(rng, LARGE, VARIABLE if layout == "lists" else FIXED)
    if layout == "three_file":
        pooling = list(FIXED.pooling)
        multi_hot.write_three_file(tmp_path, drawn, dense_log=True, pooling_per_table=pooling)
    else:
        multi_hot.write_per_table(tmp_path, drawn)
    lines, problems = validate.validate(open_split(tmp_path), progress=False)
    assert problems == []
    for table, ids in enumerate(drawn.ids):
        (line,) = [one for one in lines if one.startswith(f"  table {table} ")]
        values = ids[0] if isinstance(ids, tuple) else ids
        rows, seen = VOCAB_SIZES[table], len(np.unique(values))
        assert f"ids 0 to {rows - 1} of {rows} rows, {seen} seen" in line
        hotness, pooling = FIXED.hotness[table], FIXED.pooling[table]
        if isinstance(ids, tuple):
            mean = f"{len(values) / LARGE:.4g} on average"
            assert line.endswith(f"; {pooling} of up to {hotness} ids per sample, {mean}")
        elif hotness > 1:
            assert line.endswith(f"; {pooling} of {hotness} ids per sample")
        else:
            assert line.endswith("%)")


@pytest.mark.parametrize("name", ["category_1.bin", "category_2.bin", "category_2_offsets.bin"])
def test_validate_finds_changed_ids_and_offsets(tmp_path, rng, name):
    # One list longer, the next one shorter: still valid, but for the digest.
    drawn = random_samples(rng, 500, VARIABLE)
    drawn.ids[2][1][10:12] = 1, 2
    drawn = drawn._replace(ids=[*drawn.ids])
    values, lengths = drawn.ids[2]
    drawn.ids[2] = (np.resize(values, lengths.sum()), lengths)
    multi_hot.write_per_table(tmp_path, drawn)
    dtype = {"category_1.bin": np.int16, "category_2.bin": np.int32}.get(name, np.int64)
    stored = np.fromfile(tmp_path / name, dtype)
    stored[11] = stored[11] + 1 if name.endswith("offsets.bin") else (stored[11] + 1) % 200
    stored.tofile(tmp_path / name)
    _, problems = validate.validate(open_split(tmp_path), progress=False)
    assert [name in problem and "content changed" in problem for problem in problems] == [True]


def test_validate_reports_invalid_ids_of_lists(tmp_path, rng, capsys):
    drawn = random_samples(rng, 500, VARIABLE)
    values, lengths = drawn.ids[2]
    sample = 300 + int(np.argmax(lengths[300:] > 0))
    values[lengths[:sample].sum()] = -1
    multi_hot.write_per_table(tmp_path, drawn)
    assert run(validate, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert f"category_2.bin: table 2, sample {sample}: id: expected 0 to 39999, found -1" in line
