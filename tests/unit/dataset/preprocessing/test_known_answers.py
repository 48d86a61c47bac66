"""A few lines whose results were computed by hand."""

import json

import numpy as np
import pytest

from dataset.preprocessing.errors import RejectedLinesError, UnseenValueError
from tests.support.dataset.preprocessing.fixtures import records_of, run_quietly, write_days

#: C1 of the nine good lines. Modulo 16: a, 0 (missing), a, b, a, 0 (10), f, b, 0.
FIRST = ["a", "", "1a", "b", "0000000a", "10", "ffffffff", "2b", "0"]
#: C1 of the malformed lines between them.
DENSE = {0: "-3", 1: "", 2: "7", 3: "-1", 4: "2147483647", 5: "0", 6: "", 7: "-2147483648", 8: "5"}


def _line(row):
    dense = [DENSE[row]] + [str(row)] * 12
    return "\t".join([str(row % 2), *dense, FIRST[row], *["ff"] * 24, "" if row < 8 else "1"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Has days 0 (four good lines, three bad ones) and 1 (five good lines, one bad one)."""
    folder = tmp_path_factory.mktemp("known")
    good = [_line(row) for row in range(9)]
    bad_hex = good[0].replace("\tff\t", "\tfg\t", 1)
    bad_label = "2" + good[0][1:]
    short = good[0].rsplit("\t", 1)[0]
    wide = good[3].rsplit("\t", 1)[0] + "\t123456789"
    day_0 = [good[0], bad_hex, *good[1:3], bad_label, short, good[3]]
    write_days(folder, day_0, [*good[4:6], wide, *good[6:9]])
    return folder


SPLIT = {"train_days": (0,), "test_day": 1, "max_rejects": 0.5}


@pytest.fixture(scope="module")
def modulo(folder):
    """(Report, logged lines) of a run with the modulo rule."""
    return run_quietly(
        folder, output=str(folder / "modulo"), max_table_rows=16, write_validation=True, **SPLIT
    )


@pytest.fixture(scope="module")
def frequency(folder):
    """The report of a run with the frequency rule."""
    return run_quietly(
        folder, output=str(folder / "frequency"), frequency_threshold=2, negatives="keep", **SPLIT
    )[0]


def _records(folder, *splits):
    return [records_of(folder / f"{split}_data.bin") for split in splits]


def test_modulo_rule_gives_the_known_records(folder, modulo):
    report, lines = modulo
    splits = _records(folder / "modulo", "train", "test", "validation")
    # Day 1 has five good lines: three for test, two for validation.
    assert [len(split) for split in splits] == [4, 3, 2]
    rows = np.concatenate(splits)
    assert rows[:, 0].tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert rows[:, 1].tolist() == [0, 0, 7, 0, 2147483647, 0, 0, 0, 5]
    assert rows[:, 2].tolist() == list(range(9))
    # Modulo 16: value 0 three times, 10 three times, 11 twice, 15 once; the tie goes to value 0.
    assert rows[:, 14].tolist() == [1, 0, 1, 2, 1, 0, 3, 2, 0]
    assert (rows[:, 15:39] == 0).all()
    # C26: missing (value 0) eight times, 1 once.
    assert rows[:, 39].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1]
    sizes = json.loads((folder / "modulo" / "vocab_sizes.json").read_text())
    assert sizes == [4, *[1] * 24, 2]
    assert report["categorical"]["C1"] == {
        "vocab_size": 4, "distinct": 4, "rare_values": 0, "rare_samples": 0, "missing": 1,
        "without_id": 0,
        "most_frequent": [["00000000", 3], ["0000000a", 3], ["0000000b", 2], ["0000000f", 1]],
    }  # fmt: skip
    assert report["dense"]["I1"] == {
        "missing": 2, "negative": 3, "least": -(2**31), "greatest": 2**31 - 1,
    }  # fmt: skip
    assert report["dense_transform"] == "log(x+1)"
    assert report["inputs"] == {
        "files": 2, "empty": [], "without_final_newline": [], "byte_order_mark": [],
    }  # fmt: skip
    assert any("train_data.bin: 4 samples, 640 bytes" in line for line in lines)


def test_frequency_rule_gives_the_known_records(folder, frequency):
    rows = np.concatenate(_records(folder / "frequency", "train", "test"))
    assert not (folder / "frequency" / "validation_data.bin").exists()
    assert rows[:, 1].tolist() == [-3, 0, 7, -1, 2147483647, 0, 0]
    # Only value 10 is seen twice; counts are over all lines of both days.
    assert rows[:, 14].tolist() == [1, 0, 0, 0, 1, 0, 0]
    assert (rows[:, 15:39] == 1).all()
    assert (rows[:, 39] == 0).all()
    sizes = json.loads((folder / "frequency" / "vocab_sizes.json").read_text())
    assert sizes == [2, *[2] * 24, 1]
    # 1a, b, 10, ffffffff, 2b and 0 are seen once each.
    assert frequency["categorical"]["C1"] == {
        "vocab_size": 2, "distinct": 7, "rare_values": 6, "rare_samples": 6, "missing": 1,
        "without_id": 5, "most_frequent": [["0000000a", 2]],
    }  # fmt: skip


def test_reject_file_lists_line_and_reason(folder, modulo):
    report, logged = modulo
    found = (folder / "modulo" / "rejects.tsv").read_text().splitlines()
    day_0, day_1 = (str(folder / "days" / f"day_{day}") for day in (0, 1))
    assert [tuple(line.split("\t")[:3]) for line in found] == [
        (day_0, "2", "C2 'fg' is not hexadecimal"),
        (day_0, "5", "label '2' is not 0 or 1"),
        (day_0, "6", "39 fields, expected 40"),
        (day_1, "3", "C26 '123456789' does not fit 32 bits"),
    ]
    # The line itself is kept.
    lines = (folder / "days" / "day_0").read_text().splitlines()
    assert found[0].split("\t", 3)[3] == lines[1]
    assert (report["rejected_lines"], report["lines"]) == (4, 13)
    assert any("4 malformed lines" in line for line in logged)


def test_too_many_malformed_lines_are_an_error(folder, tmp_path):
    given = {"max_table_rows": 16, "input": str(folder / "days"), **SPLIT}
    for limit in (0, 0.3):
        with pytest.raises(RejectedLinesError) as caught:
            run_quietly(tmp_path, **{**given, "max_rejects": limit})
        error = caught.value
        assert (error.flag, error.bound, error.found) == ("max_rejects", limit, 4)
        assert (error.path, error.line) == (str(folder / "days" / "day_0"), 2)
        assert "30.7692%" in str(error) and "'fg'" in str(error)
    assert not (tmp_path / "out" / "train_data.bin").exists()
    assert len((tmp_path / "out" / "rejects.tsv").read_text().splitlines()) == 4
    # The same run succeeds with a larger limit.
    run_quietly(tmp_path, **{**given, "max_rejects": 0.31})


def _later_day(tmp_path, first, dictionary):
    lines = ["\t".join(["1", *["1"] * 13, value, *["ff"] * 25]) for value in first]
    write_days(tmp_path, lines)
    return {"train_days": (0,), "dictionary": str(dictionary / "dictionary")}


@pytest.mark.usefixtures("frequency")
def test_saved_frequency_dictionary_gives_unseen_values_id_0(folder, preprocess, tmp_path):
    saved = folder / "frequency"
    report, _ = preprocess(**_later_day(tmp_path, ["a", "10", "", "77", "a"], saved))
    (rows,) = _records(tmp_path / "out", "train")
    assert rows[:, 14].tolist() == [1, 0, 0, 0, 1]
    # C26 had no value twice, so that its table has only the shared row.
    assert rows[0, 38:].tolist() == [1, 0]
    sizes = "vocab_sizes.json"
    assert (tmp_path / "out" / sizes).read_bytes() == (saved / sizes).read_bytes()
    assert report["reused_dictionary"]
    assert report["categorical"]["C1"] == {"vocab_size": 2, "missing": 1, "without_id": 3}


@pytest.mark.usefixtures("modulo")
def test_saved_modulo_dictionary_rejects_unseen_values(folder, preprocess, tmp_path):
    later = _later_day(tmp_path, ["a", "10", "", "7", "f"], folder / "modulo")
    with pytest.raises(UnseenValueError) as caught:
        preprocess(**later)
    assert caught.value.found == {"C1": 1, "C26": 5}
    assert (caught.value.flag, caught.value.path) == ("unseen", later["dictionary"])
    preprocess(**later, unseen="zero")
    (rows,) = _records(tmp_path / "out", "train")
    assert rows[:, 14].tolist() == [1, 0, 0, 0, 3]
    assert (rows[:, 39] == 0).all()
