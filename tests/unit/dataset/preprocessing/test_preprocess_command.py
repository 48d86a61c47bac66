"""The command line: what it turns flags into, and its errors."""

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
from tests.support.dataset.preprocessing.fixtures import (
    random_lines,
    records_of,
    run_options,
    write_days,
)


def _options(*flags):
    return command._options(command._parser().parse_args(["--input=i", "--output=o", *flags]))


def test_defaults_are_the_published_run():
    options = _options()
    assert options.train_days == tuple(range(23))
    assert options.test_day == 23
    assert options.max_table_rows == 40_000_000
    assert options.frequency_threshold is None
    assert options.memory_limit == 8 << 30
    assert options.max_rejects == Fraction(1, 10000)
    assert options.engine == "duckdb"


def test_flags():
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
    "flags,message",
    [
        (["--test_fraction=0.1", "--train_days=0"], "--test_fraction splits by rows"),
        (["--test_fraction=1.5"], "--test_fraction: '1.5' is not a fraction"),
        (["--test_fraction=0"], "--test_fraction: expected more than 0"),
        (["--test_fraction="], "--test_fraction: '' is not a fraction"),
        (["--test_fraction=1e999999999"], "is not a fraction"),
        (["--max_rejects="], "--max_rejects: '' is not a fraction"),
        (["--max_rejects=100%"], "--max_rejects: '100%' is not a fraction"),
        (["--train_days="], "--train_days: expected numbers and ranges"),
        (["--train_days=0,,2"], "--train_days: expected numbers and ranges"),
        (["--train_days=" + "9" * 5000], "--train_days: expected numbers and ranges"),
        (["--test_day="], "expected a day number or none, found ''"),
        (["--test_day=\N{SUPERSCRIPT TWO}"], "expected a day number or none"),
        (["--train_days=0-23"], "--test_day 23 is one of --train_days"),
        (["--train_days=5-2"], "5-2 is no range"),
        (["--test_day=x"], "expected a day number or none, found 'x'"),
        (["--test_day=none", "--write_validation"], "there is none"),
        (["--memory_limit=8Gb/s"], "is not a size"),
        (["--memory_limit=10MiB"], "expected 1GiB to 1024TiB, found 10485760"),
        (["--memory_limit=0"], "expected 1GiB to 1024TiB, found 0"),
        (["--memory_limit=9999999TiB"], "expected 1GiB to 1024TiB"),
        (["--memory_limit=" + "9" * 5000], "is not a size"),
        (["--max_table_rows=2147483648"], "--max_table_rows: expected 1 to 2147483647"),
        (["--frequency_threshold=2147483648"], "--frequency_threshold: expected 1 to 2147483647"),
        (["--jobs=100000000"], "--jobs: expected 1 to 1024, found 100000000"),
        (["--master=local"], "take effect with --engine=spark only"),
        (["--unseen=zero"], "takes effect with --dictionary only"),
        (["--engine=spark", "--spark_conf=x"], "expected KEY=VALUE, found 'x'"),
        (["--engine=spark", "--spark_conf==x"], "expected KEY=VALUE, found '=x'"),
    ],
)
def test_flags_that_cannot_take_effect_are_errors(flags, message):
    with pytest.raises(OptionError, match=message):
        _options(*flags)


@pytest.mark.parametrize("flag", ["max_table_rows", "frequency_threshold", "jobs"])
@pytest.mark.parametrize("wrong", ["0", "-4", "", "1.5", "x", "9" * 5000])
def test_a_number_that_is_none_is_not_replaced_by_the_default(flag, wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        _options(f"--{flag}={wrong}")
    assert ended.value.code == 2
    assert f"argument --{flag}: " in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["dictionary", "work_dir", "master"])
def test_an_empty_text_is_not_replaced_by_the_default(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        _options("--engine=spark", f"--{flag}=")
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert f"argument --{flag}: expected a " in message and "found nothing" in message


def test_sizes_fractions_days():
    assert parse_bytes("8GiB", "-m") == 8 << 30
    assert parse_bytes("1.5 MB", "-m") == 1_500_000
    assert parse_bytes("77", "-m") == 77
    fractions = [parse_fraction(text, "-f") for text in ("0.01%", "0.0001", "1e-4", " .01 %")]
    assert fractions == [Fraction(1, 10000)] * 4
    assert parse_days("0-2, 7", "-d") == (0, 1, 2, 7)


def test_input_files_are_found_in_order(tmp_path):
    for name in ("day_10.gz", "day_9", "day_2.zst", "day_11.parquet", "readme.txt", "day_x"):
        (tmp_path / name).write_bytes(b"")
    found = find_inputs(str(tmp_path))
    assert [file.day for file in found] == [2, 9, 10, 11]
    assert [file.compression for file in found] == ["zstd", "none", "gzip", "none"]
    assert [file.form for file in found] == ["tsv", "tsv", "tsv", "parquet"]
    assert [file.day for file in find_inputs(str(tmp_path / "day_[29]*"))] == [2, 9]


def _parts(*rows):
    return [Part(number, "", n, 0, 0) for number, n in enumerate(rows)]


def test_the_test_day_is_halved_rounded_up_wherever_its_parts_end():
    plan = by_day(_parts(4, 3), [Part(5, "", 2, 0, 0), Part(6, "", 3, 0, 0)], True)
    assert plan.records == {TRAIN: 7, TEST: 3, VALIDATION: 2}
    assert plan.destinations[1] == [(TRAIN, 4, 0, 3)]
    assert plan.destinations[5] == [(TEST, 0, 0, 2)]
    assert plan.destinations[6] == [(TEST, 2, 0, 1), (VALIDATION, 0, 1, 3)]


def test_a_fraction_of_rows_is_the_last_ones_rounded_up():
    plan = by_fraction(_parts(4, 4, 3), Fraction(1, 10))
    assert plan.records == {TRAIN: 9, TEST: 2}
    assert plan.destinations[2] == [(TRAIN, 8, 0, 1), (TEST, 0, 1, 3)]


def test_the_command_runs_and_reports_errors_on_one_line(tmp_path, capsys):
    write_days(tmp_path, random_lines(1, 60), random_lines(2, 41))
    flags = ["--input", str(tmp_path / "days"), "--output", str(tmp_path / "out"), "--jobs=1"]
    assert command.main([*flags, "--train_days=0", "--test_day=1"]) == 0
    assert len(records_of(tmp_path / "out" / "train_data.bin")) == 60
    assert len(records_of(tmp_path / "out" / "test_data.bin")) == 21
    assert "test_data.bin: 21 samples, 3360 bytes" in capsys.readouterr().out
    assert command.main([*flags, "--train_days=0", "--test_day=7"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("preprocess.py: --input") and error.count("\n") == 1
    assert run_options(tmp_path, train_days=(0,)).jobs == 1


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, capsys):
    write_days(tmp_path, random_lines(1, 6))
    (tmp_path / "file").write_text("")
    flags = ["--input", str(tmp_path / "days"), "--train_days=0", "--test_day=none"]
    assert command.main([*flags, "--output", str(tmp_path / "file" / "out")]) == 2
    error = capsys.readouterr().err
    assert "Not a directory" in error and error.count("\n") == 1


def test_progress_shows_rows_per_second_and_time_left(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressBar("parse", 4_000_000, "B") as bar:
        bar.show(1_000_000, 5000)
        bar._bar.refresh()
    shown = terminal.getvalue()
    assert "parse:  25%" in shown
    assert "M rows/s" in shown
    assert "1.00M/4.00M" in shown
    assert "<00:" in shown or "<?" in shown
