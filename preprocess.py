"""Converts raw Criteo days (TSV or Parquet) to 160-byte binaries, table sizes and dictionaries.

Example:
    python3 preprocess.py --input /criteo --output /data --train_days 0-22 --test_day 23

See docs/preprocess.md.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from storage import program_start

if __name__ == "__main__":
    program_start.begin()

from dataset import command_line
from dataset.preprocessing import options as options_module
from dataset.preprocessing import pipeline
from dataset.preprocessing.errors import OptionError
from dataset.preprocessing.inputs import parse_days
from storage.arguments import first_paragraph


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Appends an option's default, if it has one, to its help."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def _not_empty(text):
    if not text:
        # An unset shell variable, which does not mean the default.
        raise argparse.ArgumentTypeError("expected a value, found nothing")
    return text


def _parser():
    parser = argparse.ArgumentParser(
        prog="preprocess.py", description=first_paragraph(__doc__), formatter_class=_Defaults
    )
    add = parser.add_argument
    add(
        "--input",
        type=command_line.path,
        required=True,
        help="folder of days, a file, or a quoted glob",
    )
    add("--output", type=command_line.path, required=True, help="folder to write to")
    add("--overwrite", action="store_true",
        help="replace the complete result of an earlier run in OUTPUT")  # fmt: skip
    split = parser.add_argument_group("split")
    add = split.add_argument
    add("--train_days", help=f"days such as 0-22 (default: {options_module.DEFAULT_TRAIN_DAYS})")
    add("--test_day", help="day whose first half (rounded up) is the test set, or none "
        f"(default: {options_module.DEFAULT_TEST_DAY})")  # fmt: skip
    add("--write_validation", action="store_true", help="also write the test day's other half")
    add(
        "--test_fraction",
        help="split by row order instead: share of the last rows, such as 0.1 or 10%%",
    )
    rule = parser.add_argument_group("dictionaries")
    which = rule.add_mutually_exclusive_group()
    add = which.add_argument
    add("--max_table_rows", type=command_line.at_least_one,
        default=options_module.DEFAULT_MAX_TABLE_ROWS,
        help="modulo rule: reduce values modulo this number of rows "
        "(default: %(default)s, as MLPerf)")  # fmt: skip
    add("--frequency_threshold", type=command_line.at_least_one, metavar="T",
        help="frequency rule: ids for values seen at least T times; others share id 0")  # fmt: skip
    add("--dictionary", type=command_line.path, metavar="DIR",
        help="use this saved dictionary instead of counting")  # fmt: skip
    add = rule.add_argument
    add("--unseen", choices=("error", "zero"), default="error",
        help="for values that a modulo --dictionary lacks: fail, or use id 0")  # fmt: skip
    add = parser.add_argument_group("values").add_argument
    add(
        "--negatives",
        choices=("zero", "keep"),
        default="zero",
        help="negative dense counts: replace with 0, or keep",
    )
    add("--max_rejects", default="0.01%", help="largest allowed share of malformed lines")
    add(
        "--layout",
        choices=("raw", "per_table"),
        default="raw",
        help="160-byte records, or one file per table",
    )
    add = parser.add_argument_group("resources").add_argument
    add(
        "--engine",
        choices=("duckdb", "spark"),
        default="duckdb",
        help="SQL engine: DuckDB on this machine, or Spark on a cluster",
    )
    add(
        "--memory_limit",
        default="8GiB",
        help="memory limit of this machine; with Spark, of each JVM",
    )
    add("--jobs", type=command_line.at_least_one,
        default=min(os.cpu_count() or 1, options_module.MAX_JOBS),
        help="number of processes and threads")  # fmt: skip
    add("--work_dir", type=command_line.path,
        help="new or empty folder for intermediate files "
        "(default: OUTPUT/.preprocess)")  # fmt: skip
    add("--keep_parts", action="store_true",
        help="keep the parsed input for runs with other options")  # fmt: skip
    add("--master", type=_not_empty,
        help="Spark master URL, such as local[8] or spark://host:7077")  # fmt: skip
    add("--spark_conf", action="append", default=[], metavar="KEY=VALUE",
        help="additional Spark setting; may be repeated")  # fmt: skip
    return parser


def _options(flags):
    by_rows = flags.test_fraction is not None
    train_days, test_day = flags.train_days, flags.test_day
    if not by_rows:
        train_days = options_module.DEFAULT_TRAIN_DAYS if train_days is None else train_days
        test_day = str(options_module.DEFAULT_TEST_DAY) if test_day is None else test_day
    if test_day not in (None, "none") and not re.fullmatch("[0-9]{1,4}", test_day):
        raise OptionError.of_flag("test_day", test_day, "expected a day number or none")
    spark_conf = {}
    for setting in flags.spark_conf:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise OptionError.of_flag("spark_conf", setting, "expected KEY=VALUE")
        spark_conf[key] = value
    parsed = {
        "train_days": None if train_days is None else parse_days(train_days, "train_days"),
        "test_day": None if test_day in (None, "none") else int(test_day),
        "max_rejects": options_module.parse_fraction(flags.max_rejects, "max_rejects"),
        "spark_conf": spark_conf,
        "memory_limit": options_module.parse_bytes(flags.memory_limit, "memory_limit"),
    }
    if by_rows:
        fraction = options_module.parse_fraction(flags.test_fraction, "test_fraction")
        parsed["test_fraction"] = fraction
    return options_module.Options(**{**vars(flags), **parsed})


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (see `dataset.command_line`)."""
    flags = _parser().parse_args(arguments)

    def job():
        pipeline.run(_options(flags))
        return 0

    interrupted = "interrupted; run the same command again to continue"
    return command_line.run("preprocess.py", job, interrupted=interrupted)


if __name__ == "__main__":
    sys.exit(main())
