"""Hotness and pooling: parsing, comparison of splits, and errors that name what is wrong."""

import dataclasses
import json

import numpy as np
import pytest

import split_bin
from dataset import DatasetError, convert, hotness, metadata, open_dataset, open_split
from dataset.stored_types import Declared
from ops.bags import Bags
from tests.support.dataset import multi_hot
from tests.support.dataset.feature_specs import SAMPLES, SIZES, SpecDataset
from tests.support.dataset.hand_written import narrow, random_arrays, seed_metadata
from tests.support.dataset.hand_written import write_three_file as write_one_hot
from tests.support.dataset.multi_hot import FIXED, VARIABLE, VOCAB_SIZES, random_samples


def test_parse_accepts_lists_names_and_files(tmp_path):
    (tmp_path / "a.json").write_text("[3, 1, 65536]")
    (tmp_path / "b.json").write_text('["sum", "mean"]')
    content = {"vocab_sizes": [9, 9, 9], "hotness_per_table": [3, 1, 65536]}
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    files = [str(tmp_path / name) for name in ("a.json", "metadata.json")]
    for text in ("3,1,65536", " [3, 1, 65536] ", *files):
        assert hotness.parse_hotness(text, "--hotness") == [3, 1, 65536]
    assert len(hotness.parse_hotness("mlperf", "--hotness")) == 26
    assert sum(hotness.parse_hotness("mlperf", "--hotness")) == 214
    for text in ("sum, mean", str(tmp_path / "b.json")):
        assert hotness.parse_pooling(text, "--pooling") == ["sum", "mean"]


def test_one_pooling_is_that_of_all_features():
    assert hotness.make_bags([3, 1, 2], ["mean"], 3, "a") == Bags.of([3, 1, 2], "mean")
    with pytest.raises(DatasetError, match="pooling, one per categorical feature: expected 3"):
        hotness.make_bags([3, 1, 2], ["mean", "sum"], 3, "a")


@pytest.mark.parametrize("text", ["", "3,x", "MLPERF", "3;1", "[3", "0", "3,-1", "65537", "1.5"])
def test_parse_refuses_other_hotness(text):
    with pytest.raises(DatasetError) as caught:
        hotness.parse_hotness(text, "--hotness")
    assert caught.value.flag == "hotness"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "max", "sum,,mean", "mlperf"])
def test_parse_refuses_other_pooling(text):
    with pytest.raises(DatasetError, match="sum, mean") as caught:
        hotness.parse_pooling(text, "--pooling")
    assert caught.value.flag == "pooling"


@pytest.mark.parametrize("content", [
    '["x"]', "[0]", "[]", "{}", "3", '{"hotness_per_table": [0]}', '{"hotness_per_table": 3}',
])  # fmt: skip
def test_parse_refuses_files_with_other_lists(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    for parse in (hotness.parse_hotness, hotness.parse_pooling):
        with pytest.raises(DatasetError) as caught:
            parse(str(tmp_path / "a.json"), "--flag")
        assert caught.value.path == str(tmp_path / "a.json")


def test_slots_of_both_splits_hold_the_longest_lists(tmp_path, rng):
    wider = Bags((1, 3, 9, 1, 7), FIXED.pooling, VARIABLE.variable)
    multi_hot.write_per_table(tmp_path / "train", random_samples(rng, 60, VARIABLE))
    multi_hot.write_per_table(tmp_path / "test", random_samples(rng, 40, wider))
    train, test = open_dataset(tmp_path)
    slots = hotness.of_both(train.bags, test.bags, "data")
    assert slots.hotness == (1, 3, 9, 2, 7)
    assert (slots.pooling, slots.variable) == (FIXED.pooling, VARIABLE.variable)


@pytest.mark.parametrize(("change", "table", "expected", "found"), [
    ({"hotness": (1, 2, 4, 2, 7)}, 1, 3, 2), ({"pooling": ("sum",) * 5}, 2, "mean", "sum"),
    ({"variable": (False, False, True, False, False)}, 3, True, False),
])  # fmt: skip
def test_open_dataset_refuses_splits_that_differ(tmp_path, rng, change, table, expected, found):
    changed = Bags(**{**{k: getattr(VARIABLE, k) for k in ("hotness", "pooling", "variable")},
                      **change})  # fmt: skip
    multi_hot.write_per_table(tmp_path / "train", random_samples(rng, 60, VARIABLE))
    multi_hot.write_per_table(tmp_path / "test", random_samples(rng, 40, changed))
    with pytest.raises(DatasetError, match=f"train and test differ in .* table {table}") as caught:
        open_dataset(tmp_path)
    error = caught.value
    assert (error.table, error.expected, error.found) == (table, expected, found)


def test_pooling_may_differ_for_one_id(tmp_path, rng):
    other = Bags(FIXED.hotness, ("mean", *FIXED.pooling[1:]), FIXED.variable)
    multi_hot.write_per_table(tmp_path / "train", random_samples(rng, 60))
    multi_hot.write_per_table(tmp_path / "test", random_samples(rng, 40, other))
    assert len(open_dataset(tmp_path)) == 2


@pytest.mark.parametrize(("declared", "flag"), [
    (Declared(hotness=[1, 3, 4, 2]), "hotness"), (Declared(hotness=[1, 2, 5, 2, 7]), "hotness"),
    (Declared(pooling=["sum", "mean"]), "pooling"), (Declared(pooling=["max"]), "pooling"),
])  # fmt: skip
def test_flags_that_contradict_the_data_are_refused(tmp_path, rng, declared, flag):
    multi_hot.write_per_table(tmp_path / "a", random_samples(rng, 9))
    multi_hot.write_three_file(tmp_path / "b", random_samples(rng, 9))
    for folder in ("a", "b"):
        with pytest.raises(DatasetError) as caught:
            open_split(tmp_path / folder, declared=declared)
        assert caught.value.flag == flag


def write_own_per_table(folder, drawn):
    multi_hot.write_per_table(folder, drawn)
    return folder


def write_lists(folder, drawn):
    lists = [ids if table not in (2, 3) else (ids.ravel(), np.full(len(ids), ids.shape[1]))
             for table, ids in enumerate(drawn.ids)]  # fmt: skip
    multi_hot.write_per_table(folder, drawn._replace(ids=lists, bags=VARIABLE))
    return folder


def write_own_three_file(folder, drawn):
    multi_hot.write_per_table(folder / "source", drawn)
    source = [str(folder / "source"), str(folder / "own")]
    assert convert.main([*source, "--layout=three_file"]) == 0
    return folder / "own"


def write_seed(folder, drawn):
    multi_hot.write_three_file(folder, drawn, pooling_per_table=list(drawn.bags.pooling))
    return folder


def write_raw_with_metadata(folder, drawn):
    multi_hot.write_raw(folder / "x.bin", drawn)
    content = {
        "vocab_sizes": VOCAB_SIZES,
        "hotness_per_table": list(drawn.bags.hotness),
        "pooling_per_table": list(drawn.bags.pooling),
    }
    (folder / "metadata.json").write_text(json.dumps(content))
    return folder / "x.bin"


def write_test_without_metadata(folder, drawn):
    for name in ("train", "test"):
        multi_hot.write_per_table(folder / name, drawn)
    (folder / "test" / "metadata.json").unlink()
    return folder / "test"


@pytest.mark.parametrize("write", [
    write_own_per_table, write_lists, write_own_three_file, write_seed, write_raw_with_metadata,
    write_test_without_metadata,
])  # fmt: skip
def test_pooling_that_contradicts_the_recorded_one_is_refused(tmp_path, rng, write):
    path = write(tmp_path / "a", random_samples(rng, 9))
    recorded = open_split(path).bags
    assert recorded.pooling[1:] == FIXED.pooling[1:]
    # Of table 0, which has one id per sample, it has no effect.
    for pooling in (FIXED.pooling, ("mean", *FIXED.pooling[1:])):
        found = open_split(path, declared=Declared(pooling=pooling)).bags
        assert (found.pooling[1:], found.hotness) == (FIXED.pooling[1:], FIXED.hotness)
    for table in (1, 2, 3, 4):
        right = FIXED.pooling[table]
        wrong = "mean" if right == "sum" else "sum"
        pooling = [*FIXED.pooling[:table], wrong, *FIXED.pooling[table + 1 :]]
        with pytest.raises(DatasetError, match="--pooling contradicts the data") as caught:
            open_split(path, declared=Declared(pooling=pooling))
        error = caught.value
        assert "\n" not in str(error)
        assert (error.flag, error.path, error.table) == ("pooling", str(path), table)
        assert (error.expected, error.found) == (right, wrong)
    with pytest.raises(DatasetError, match=r"contradicts the data: pooling of table 1: .* sum, .*"):
        open_split(path, declared=Declared(pooling=["mean"]))


def test_split_bin_refuses_another_pooling_than_the_train_split(tmp_path, rng, capsys):
    multi_hot.write_per_table(tmp_path / "train", random_samples(rng, 9))
    multi_hot.write_raw(tmp_path / "x.bin", random_samples(rng, 9))
    arguments = [str(tmp_path / "x.bin"), str(tmp_path / "test"), "--split_categories"]
    assert split_bin.main([*arguments, "--pooling=mean"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    expected = "--pooling contradicts the data: pooling of table 1: expected sum, found mean"
    assert f"{tmp_path / 'train'}: {expected}" in line
    assert not (tmp_path / "test").exists()
    assert split_bin.main([*arguments, f"--pooling={','.join(FIXED.pooling)}"]) == 0
    assert open_split(tmp_path / "test").bags == FIXED


def test_pooling_of_one_hot_data_is_refused(tmp_path, rng):
    write_one_hot(tmp_path / "a", random_arrays(9, rng), seed_metadata())
    assert open_split(tmp_path / "a", declared=Declared(hotness=[1] * 8)).bags.is_one_hot
    with pytest.raises(DatasetError, match="no effect") as caught:
        open_split(tmp_path / "a", declared=Declared(pooling=["mean"]))
    assert caught.value.flag == "pooling"


@pytest.mark.parametrize("ids", [1, 2, 4])
def test_files_with_another_number_of_ids_are_named(tmp_path, rng, ids):
    drawn = random_samples(rng, 50)
    multi_hot.write_per_table(tmp_path / "a", drawn)
    path = tmp_path / "a" / "category_1.bin"
    np.zeros((50, ids), np.int16).tofile(path)
    with pytest.raises(DatasetError, match=f"fits {ids} ids? per sample, not 3") as caught:
        open_split(tmp_path / "a")
    assert (caught.value.path, caught.value.expected) == (str(path), 300)
    assert caught.value.found == 100 * ids


def test_list_of_ids_for_a_one_hot_column_is_refused(tmp_path, rng):
    write_one_hot(tmp_path / "a", random_arrays(50, rng), seed_metadata())
    np.zeros((50, 8 + 2), np.int32).tofile(tmp_path / "a" / "category.bin")
    with pytest.raises(DatasetError, match=r"category\.bin: too long: expected 1600 bytes"):
        open_split(tmp_path / "a")


@pytest.mark.parametrize(("metadata_hotness", "message"), [
    ([1, 3, 4, 2], "hotness, one per categorical feature: expected 5, found 4"),
    ([1, 3, 4, 2, 0], r"hotness_per_table\[4\].*found 0"),
])  # fmt: skip
def test_hotness_of_another_length_is_refused(tmp_path, rng, metadata_hotness, message):
    drawn = random_samples(rng, 9)
    multi_hot.write_three_file(tmp_path / "a", drawn, hotness_per_table=metadata_hotness)
    with pytest.raises(DatasetError, match=message) as caught:
        open_split(tmp_path / "a")
    assert caught.value.path == str(tmp_path / "a" / "metadata.json")


# {case: (change of the metadata, expected field, expected `found`)}.
COLUMN = "columns[4]"
MALFORMED = {
    "version 1": (lambda c, _: c.update(format_version=1), "format_version", 1),
    "no width": (lambda _, e: e.update(hotness=[4]), f"{COLUMN}.offsets", "1 of width 4"),
    "two features": (lambda _, e: e.update(hotness=[4, 1]), f"{COLUMN}.offsets", "2 of width 1"),
    "pooling": (lambda _, e: e.update(pooling=["max"]), f"{COLUMN}.pooling[0]", "max"),
    "pooling list": (lambda _, e: e.update(pooling=["sum"] * 2), COLUMN, 2),
    "hotness 0": (lambda _, e: e.update(hotness=[0]), f"{COLUMN}.hotness[0]", 0),
    "hotness text": (lambda _, e: e.update(hotness="4"), f"{COLUMN}.hotness", "4"),
    "path": (
        lambda _, e: e["offsets"].update(file="../x.bin"), f"{COLUMN}.offsets.file", "../x.bin"
    ),
    "no digest": (lambda _, e: e["offsets"].pop("digest"), f"{COLUMN}.offsets.digest", None),
    "dense": (lambda c, _: c["columns"][1].update(hotness=[13]), "columns[1].hotness", "dense"),
    "width": (lambda c, _: c["columns"][3].update(hotness=[2]), "columns[3].hotness", 2),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_metadata_is_refused(tmp_path, rng, case):
    change, field, found = MALFORMED[case]
    content = multi_hot.write_per_table(tmp_path, random_samples(rng, 50, VARIABLE))
    entry = content["columns"][4]
    if case == "no width":
        entry["width"] = 4
    change(content, entry)
    content["fingerprint"] = multi_hot.fingerprint(content)
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError) as caught:
        open_split(tmp_path)
    error = caught.value
    assert "\n" not in str(error)
    assert error.path == str(tmp_path / "metadata.json")
    assert (error.field, error.found) == (field, found)


def test_one_hot_metadata_stays_version_1(tmp_path, rng):
    write_one_hot(tmp_path / "a" / "train", random_arrays(50, rng), seed_metadata())
    source = open_split(tmp_path / "a" / "train")
    entries = [
        {"kind": kind, "file": f"{kind}.bin", "dtype": "int32", "width": 1, "digest": "x:0"}
        for kind in ("label", "dense", "categorical")
    ]
    content = metadata.build("three_file", 3, [9], "none", entries)
    assert content["format_version"] == 1
    assert not {"hotness_per_table", "pooling_per_table"} & set(content)
    # As computed by the first release.
    expected = "sha256:" + content["fingerprint"].partition(":")[2]
    assert multi_hot.fingerprint(content) == expected
    assert source.table_columns[0].bags is None


@pytest.mark.parametrize(("name", "change", "message"), [
    ("category_2.bin", lambda a: a[:-1], "expected .* ids of 4 bytes, the last offset in .*found"),
    ("category_2_offsets.bin", lambda a: a[:-1], "truncated: expected 408 bytes"),
    ("category_2_offsets.bin", lambda a: np.append(a, a[-1]), "too long: expected 408 bytes"),
    ("category_2_offsets.bin", lambda a: np.append(1, a[1:]), "first offset: expected 0, found 1"),
    ("category_2_offsets.bin", lambda a: np.append(a[:-1], a[-1] + 1), None),
])  # fmt: skip
def test_files_of_lists_that_do_not_fit_are_refused(tmp_path, rng, name, change, message):
    multi_hot.write_per_table(tmp_path, random_samples(rng, 50, VARIABLE))
    dtype = np.int64 if "offsets" in name else np.int32
    change(np.fromfile(tmp_path / name, dtype)).astype(dtype).tofile(tmp_path / name)
    with pytest.raises(DatasetError, match=message) as caught:
        open_split(tmp_path)
    expected = "category_2.bin" if message is None else name
    assert caught.value.path == str(tmp_path / expected)


@pytest.mark.parametrize(("index", "value", "message"), [
    (7, -1, "end of its list: expected at least 0|offset: expected at least 0, found -1"),
    (8, 10**6, "expected at most .*, found 1000000|expected at least"),
    (9, 0, "expected at least"),
])  # fmt: skip
def test_tools_refuse_offsets_that_do_not_rise(tmp_path, rng, index, value, message, capsys):
    from dataset import validate

    multi_hot.write_per_table(tmp_path, random_samples(rng, 50, VARIABLE))
    path = tmp_path / "category_2_offsets.bin"
    stored = np.fromfile(path, np.int64)
    stored[index] = value
    stored.tofile(path)
    assert validate.main([str(tmp_path)]) == 2
    (line,) = [o for o in capsys.readouterr().err.splitlines() if o.startswith("dataset.validate")]
    assert str(path) in line
    assert "table 2, sample" in line


def test_tools_refuse_lists_longer_than_the_hotness(tmp_path, rng, capsys):
    from dataset import validate

    drawn = random_samples(rng, 50, VARIABLE)
    shorter = Bags((1, 3, 3, 2, 7), VARIABLE.pooling, VARIABLE.variable)
    multi_hot.write_per_table(tmp_path, drawn._replace(bags=shorter))
    sample = int(np.argmax(drawn.ids[2][1] == 4))
    assert validate.main([str(tmp_path)]) == 2
    expected = (
        f"table 2, sample {sample}: ids in its list: expected at most 3, the hotness, found 4"
    )
    assert expected in capsys.readouterr().err


def test_lists_without_metadata_are_refused(tmp_path, rng):
    for name in ("train", "test"):
        multi_hot.write_per_table(tmp_path / name, random_samples(rng, 50, VARIABLE))
    (tmp_path / "test" / "metadata.json").unlink()
    with pytest.raises(DatasetError, match=r"variable length.*metadata\.json") as caught:
        open_dataset(tmp_path)
    assert caught.value.path == str(tmp_path / "test")


def test_feature_spec_gives_the_hotness(tmp_path, rng):
    written = SpecDataset(tmp_path, rng)
    written.change("feature_spec", "user id 1", "hotness", value=3)
    with pytest.raises(DatasetError, match="fits 1 id per sample, not 3"):
        open_dataset(tmp_path)
    ids = rng.integers(0, SIZES[1], (SAMPLES, 3)).astype(narrow(SIZES[1]))
    for split in ("train", "test"):
        ids.tofile(tmp_path / split / f"{split}_1.bin")
    for found in open_dataset(tmp_path, declared=Declared(pooling=["sum", "mean", "sum"])):
        assert found.bags == Bags.of([1, 3, 1], ["sum", "mean", "sum"])
        assert found.table_columns[1].bytes_per_sample == ids.nbytes // SAMPLES


def test_split_bin_refuses_a_wrong_number_of_ids(tmp_path, rng, capsys):
    multi_hot.write_raw(tmp_path / "raw.bin", random_samples(rng, 50))
    sizes = ",".join(map(str, VOCAB_SIZES))
    arguments = [str(tmp_path / "raw.bin"), str(tmp_path / "out"), f"--vocab_sizes={sizes}"]
    for flag, message in (
        ("--hotness=1,2", "hotness, one per categorical feature: expected 5, found 2"),
        ("--hotness=1,3,4,2,8", "multiple of 128 bytes"),
    ):
        assert split_bin.main([*arguments, flag]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_description_refuses_a_column_of_another_width(tmp_path, rng):
    multi_hot.write_three_file(tmp_path, random_samples(rng, 9))
    found = open_split(tmp_path)
    columns = list(found.columns)
    columns[2] = dataclasses.replace(columns[2], bags=Bags.of([1, 3, 4, 2, 6]))
    with pytest.raises(DatasetError) as caught:
        dataclasses.replace(found, columns=tuple(columns))
    assert (caught.value.expected, caught.value.found) == (16, 17)
