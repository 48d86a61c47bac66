"""The command line: options from flags, and errors."""

import io
import sys
from fractions import Fraction

import pytest

import preprocess as command
from dataset.preprocessing.errors import OptionError
from dataset.preprocessing.inputs import find_inputs, parse_days
from dataset.preprocessing.options import parse_bytes, parse_fraction
from dataset.preprocessing.parts import Part
from dataset.preprocessing.progress import ProgressBar
from dataset.preprocessing.splits import TEST, TRAIN, VALIDATION, by_day, by_fraction
from tests.support.dataset.preprocessing.fixtures import random_lines, records_of, write_days


def _options(*flags):
    return command._options(command._parser().parse_args(["--input=i", "--output=o", *flags]))


def test_options_follow_the_flags():
    options = _options()  # By default the published run.
    assert (options.train_days, options.test_day) == (tuple(range(23)), 23)
    assert (options.max_table_rows, options.frequency_threshold) == (40_000_000, None)
    options = _options("--test_fraction", "10%", "--frequency_threshold", "15")
    assert (options.train_days, options.test_day) == (None, None)
    assert options.test_fraction == Fraction(1, 10)
    assert options.frequency_threshold == 15
    options = _options("--train_days=0,3-5", "--test_day=none")
    assert (options.train_days, options.test_day) == ((0, 3, 4, 5), None)
    options = _options(
        "--engine=spark", "--master=spark://h:7077", "--spark_conf=spark.plugins=a=b"
    )
    assert options.master == "spark://h:7077"
    assert options.spark_conf == {"spark.plugins": "a=b"}


@pytest.mark.parametrize(
    "flags, flag, found",
    [
        (["--test_fraction=0.1", "--train_days=0"], "test_fraction", None),
        (["--test_fraction=1.5"], "test_fraction", "1.5"),
        (["--test_fraction=0"], "test_fraction", 0),
        (["--test_fraction=1e999999999"], "test_fraction", "1e999999999"),
        (["--max_rejects="], "max_rejects", ""),
        (["--train_days="], "train_days", ""),
        (["--train_days=0,,2"], "train_days", "0,,2"),
        (["--train_days=" + "9" * 5000], "train_days", "9" * 5000),
        (["--test_day=\N{SUPERSCRIPT TWO}"], "test_day", "\N{SUPERSCRIPT TWO}"),
        (["--train_days=0-23"], "test_day", 23),
        (["--train_days=5-2"], "train_days", "5-2"),
        (["--test_day=x"], "test_day", "x"),
        (["--test_day=none", "--write_validation"], "write_validation", None),
        (["--memory_limit=8Gb/s"], "memory_limit", "8Gb/s"),
        (["--memory_limit=10MiB"], "memory_limit", 10 << 20),
        (["--memory_limit=9999999TiB"], "memory_limit", 9999999 << 40),
        (["--memory_limit=" + "9" * 5000], "memory_limit", "9" * 5000),
        (["--max_table_rows=2147483648"], "max_table_rows", 2**31),
        (["--frequency_threshold=2147483648"], "frequency_threshold", 2**31),
        (["--jobs=100000000"], "jobs", 10**8),
        (["--master=local"], "master", None),
        (["--unseen=zero"], "unseen", None),
        (["--engine=spark", "--spark_conf==x"], "spark_conf", "=x"),
    ],
)
def test_flags_that_cannot_take_effect_are_errors(flags, flag, found):
    with pytest.raises(OptionError) as caught:
        _options(*flags)
    assert (caught.value.flag, caught.value.found) == (flag, found)
    assert f"--{flag}" in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "flag", ["max_table_rows=0", "frequency_threshold=0", "jobs=1.5", "work_dir=", "master="]
)
def test_an_invalid_or_empty_argument_is_an_error(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        _options("--engine=spark", f"--{flag}")
    assert ended.value.code == 2
    assert f"argument --{flag.partition('=')[0]}: " in capsys.readouterr().err


def test_sizes_fractions_and_days_are_parsed():
    assert parse_bytes("8GiB", "memory_limit") == 8 << 30
    assert parse_bytes("1.5 MB", "memory_limit") == 1_500_000
    assert parse_bytes("77", "memory_limit") == 77
    fractions = [
        parse_fraction(text, "max_rejects") for text in ("0.01%", "0.0001", "1e-4", " .01 %")
    ]
    assert fractions == [Fraction(1, 10000)] * 4
    assert parse_days("0-2, 7", "train_days") == (0, 1, 2, 7)


def test_find_inputs_sorts_days_by_number(tmp_path):
    for name in ("day_10.gz", "day_9", "day_2.zst", "day_11.parquet", "readme.txt", "day_x"):
        (tmp_path / name).write_bytes(b"")
    found = find_inputs(str(tmp_path))
    assert [file.day for file in found] == [2, 9, 10, 11]
    assert [file.compression for file in found] == ["zstd", "none", "gzip", "none"]
    assert [file.form for file in found] == ["tsv", "tsv", "tsv", "parquet"]
    assert [file.day for file in find_inputs(str(tmp_path / "day_[29]*"))] == [2, 9]


def _parts(*rows):
    return [Part(number, "", n, 0, 0) for number, n in enumerate(rows)]


def test_by_day_halves_the_test_day_rounded_up():
    plan = by_day(_parts(4, 3), [Part(5, "", 2, 0, 0), Part(6, "", 3, 0, 0)], True)
    assert plan.records == {TRAIN: 7, TEST: 3, VALIDATION: 2}
    assert plan.destinations[1] == [(TRAIN, 4, 0, 3)]
    assert plan.destinations[5] == [(TEST, 0, 0, 2)]
    assert plan.destinations[6] == [(TEST, 2, 0, 1), (VALIDATION, 0, 1, 3)]


def test_by_fraction_takes_the_last_rows_rounded_up():
    plan = by_fraction(_parts(4, 4, 3), Fraction(1, 10))
    assert plan.records == {TRAIN: 9, TEST: 2}
    assert plan.destinations[2] == [(TRAIN, 8, 0, 1), (TEST, 0, 1, 3)]


def test_command_runs_and_reports_errors_on_one_line(rng, tmp_path, capsys):
    write_days(tmp_path, random_lines(rng, 60), random_lines(rng, 41))
    flags = ["--input", str(tmp_path / "days"), "--output", str(tmp_path / "out"), "--jobs=1"]
    assert command.main([*flags, "--train_days=0", "--test_day=1"]) == 0
    assert len(records_of(tmp_path / "out" / "train_data.bin")) == 60
    assert len(records_of(tmp_path / "out" / "test_data.bin")) == 21
    assert "test_data.bin: 21 samples, 3360 bytes" in capsys.readouterr().out
    assert command.main([*flags, "--train_days=0", "--test_day=7"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("preprocess.py: --input") and error.count("\n") == 1


def test_progress_bar_shows_rows_per_second_and_time_left(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressBar("parse", 4_000_000, "B") as bar:
        bar.show(1_000_000, 5000)
        bar._bar.refresh()
    for shown in ("parse:  25%", "M rows/s", "1.00M/4.00M"):
        assert shown in terminal.getvalue()
