"""A few lines whose results were computed by hand."""

import json

import numpy as np
import pytest

from dataset.preprocessing.errors import RejectedLinesError, UnseenValueError
from tests.support.dataset.preprocessing.fixtures import records_of

#: C1 of the nine good lines. Modulo 16: a, 0 (missing), a, b, a, 0 (10), f, b, 0.
FIRST = ["a", "", "1a", "b", "0000000a", "10", "ffffffff", "2b", "0"]
#: C1 of the malformed lines between them.
DENSE = {0: "-3", 1: "", 2: "7", 3: "-1", 4: "2147483647", 5: "0", 6: "", 7: "-2147483648", 8: "5"}


def _line(row):
    dense = [DENSE[row]] + [str(row)] * 12
    return "\t".join([str(row % 2), *dense, FIRST[row], *["ff"] * 24, "" if row < 8 else "1"])


@pytest.fixture
def days(tmp_path):
    """Days 0 (four good lines, three bad ones) and 1 (five good lines, one bad one)."""
    folder = tmp_path / "days"
    folder.mkdir()
    good = [_line(row) for row in range(9)]
    bad_hex = good[0].replace("\tff\t", "\tfg\t", 1)
    bad_label = "2" + good[0][1:]
    short = good[0].rsplit("\t", 1)[0]
    wide = good[3].rsplit("\t", 1)[0] + "\t123456789"
    (folder / "day_0").write_text(
        "\n".join([good[0], bad_hex, *good[1:3], bad_label, short, good[3], ""])
    )
    (folder / "day_1").write_text("\n".join([*good[4:6], wide, *good[6:9], ""]))
    return folder


SPLIT = {"train_days": (0,), "test_day": 1, "max_rejects": 0.5}


def test_modulo_rule_gives_the_known_records(days, preprocess, tmp_path):
    report, lines = preprocess(max_table_rows=16, write_validation=True, **SPLIT)
    train = records_of(tmp_path / "out" / "train_data.bin")
    test = records_of(tmp_path / "out" / "test_data.bin")
    validation = records_of(tmp_path / "out" / "validation_data.bin")
    # Day 1 has five good lines: three for test, two for validation.
    assert [len(train), len(test), len(validation)] == [4, 3, 2]
    rows = np.concatenate([train, test, validation])
    assert rows[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert rows[:, 1].tolist() == [0, 0, 7, 0, 2147483647, 0, 0, 0, 5]
    assert rows[:, 2].tolist() == list(range(9))
    # Modulo 16: value 0 three times, 10 three times, 11 twice, 15 once; the tie goes to value 0.
    assert rows[:, 14].tolist() == [1, 0, 1, 2, 1, 0, 3, 2, 0]
    assert (rows[:, 15:39] == 0).all()
    # C26: missing (value 0) eight times, 1 once.
    assert rows[:, 39].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1]
    sizes = json.loads((tmp_path / "out" / "vocab_sizes.json").read_text())
    assert sizes == [4, *[1] * 24, 2]
    first = report["categorical"]["C1"]
    assert first == {
        "vocab_size": 4,
        "distinct": 4,
        "rare_values": 0,
        "rare_samples": 0,
        "most_frequent": [["00000000", 3], ["0000000a", 3], ["0000000b", 2], ["0000000f", 1]],
        "missing": 1,
        "without_id": 0,
    }
    assert report["dense"]["I1"] == {
        "missing": 2, "negative": 3, "least": -(2**31), "greatest": 2**31 - 1,
    }  # fmt: skip
    assert report["dense_transform"] == "log(x+1)"
    assert any("train_data.bin: 4 samples, 640 bytes" in line for line in lines)


def test_frequency_rule_gives_the_known_records(days, preprocess, tmp_path):
    report, _ = preprocess(frequency_threshold=2, negatives="keep", **SPLIT)
    train = records_of(tmp_path / "out" / "train_data.bin")
    test = records_of(tmp_path / "out" / "test_data.bin")
    rows = np.concatenate([train, test])
    assert not (tmp_path / "out" / "validation_data.bin").exists()
    assert rows[:, 1].tolist() == [-3, 0, 7, -1, 2147483647, 0, 0]
    # Only value 10 is seen twice; counts are over all lines of both days.
    assert rows[:, 14].tolist() == [1, 0, 0, 0, 1, 0, 0]
    assert (rows[:, 15:39] == 1).all()
    assert (rows[:, 39] == 0).all()
    sizes = json.loads((tmp_path / "out" / "vocab_sizes.json").read_text())
    assert sizes == [2, *[2] * 24, 1]
    # 1a, b, 10, ffffffff, 2b and 0 are seen once each.
    first = report["categorical"]["C1"]
    assert [first[key] for key in ("distinct", "rare_values", "rare_samples", "missing")] == [
        7, 6, 6, 1,
    ]  # fmt: skip
    assert first["most_frequent"] == [["0000000a", 2]]


def test_reject_file_lists_line_and_reason(days, preprocess, tmp_path):
    report, logged = preprocess(max_table_rows=16, **SPLIT)
    found = (tmp_path / "out" / "rejects.tsv").read_text().splitlines()
    heads = [tuple(line.split("\t")[:3]) for line in found]
    day_0, day_1 = str(days / "day_0"), str(days / "day_1")
    assert heads == [
        (day_0, "2", "C2 'fg' is not hexadecimal"),
        (day_0, "5", "label '2' is not 0 or 1"),
        (day_0, "6", "39 fields, expected 40"),
        (day_1, "3", "C26 '123456789' does not fit 32 bits"),
    ]
    # The line itself is kept.
    lines = (days / "day_0").read_text().splitlines()
    assert found[0].split("\t", 3)[3] == lines[1]
    assert report["rejected_lines"] == 4
    assert report["lines"] == 13
    assert any("4 malformed lines" in line for line in logged)


def test_too_many_malformed_lines_are_an_error(days, preprocess, tmp_path):
    with pytest.raises(RejectedLinesError) as caught:
        preprocess(max_table_rows=16, **{**SPLIT, "max_rejects": 0.3})
    error = caught.value
    assert (error.flag, error.bound, error.found) == ("max_rejects", 0.3, 4)
    assert (error.path, error.line) == (str(days / "day_0"), 2)
    assert "30.7692%" in str(error) and "'fg'" in str(error)
    assert not (tmp_path / "out" / "train_data.bin").exists()
    assert len((tmp_path / "out" / "rejects.tsv").read_text().splitlines()) == 4
    # The same run succeeds with a larger limit.
    preprocess(max_table_rows=16, **{**SPLIT, "max_rejects": 0.31})


def _later_day(tmp_path, first):
    folder = tmp_path / "later"
    folder.mkdir()
    lines = ["\t".join(["1", *["1"] * 13, value, *["ff"] * 25]) for value in first]
    (folder / "day_2").write_text("\n".join(lines) + "\n")
    return {
        "input": str(folder), "output": str(tmp_path / "out2"), "train_days": (2,),
        "dictionary": str(tmp_path / "out" / "dictionary"),
    }  # fmt: skip


def test_saved_frequency_dictionary_gives_unseen_values_id_0(days, preprocess, tmp_path):
    preprocess(frequency_threshold=2, **SPLIT)
    report, _ = preprocess(**_later_day(tmp_path, ["a", "10", "", "77", "a"]))
    rows = records_of(tmp_path / "out2" / "train_data.bin")
    assert rows[:, 14].tolist() == [1, 0, 0, 0, 1]
    # C26 had no value twice, so that its table has only the shared row.
    assert rows[0, 38:].tolist() == [1, 0]
    before = json.loads((tmp_path / "out" / "vocab_sizes.json").read_text())
    assert json.loads((tmp_path / "out2" / "vocab_sizes.json").read_text()) == before
    assert report["reused_dictionary"]
    assert report["categorical"]["C1"] == {"vocab_size": 2, "missing": 1, "without_id": 3}


def test_saved_modulo_dictionary_rejects_unseen_values(days, preprocess, tmp_path):
    preprocess(max_table_rows=16, **SPLIT)
    later = _later_day(tmp_path, ["a", "10", "", "7", "f"])
    with pytest.raises(UnseenValueError) as caught:
        preprocess(**later)
    assert caught.value.found == {"C1": 1, "C26": 5}
    assert (caught.value.flag, caught.value.path) == ("unseen", later["dictionary"])
    preprocess(**later, unseen="zero")
    rows = records_of(tmp_path / "out2" / "train_data.bin")
    assert rows[:, 14].tolist() == [1, 0, 0, 0, 3]
    assert (rows[:, 39] == 0).all()
