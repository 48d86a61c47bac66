"""The options of a preprocessing run, checked."""

from __future__ import annotations

import dataclasses
import os
import re
from fractions import Fraction

from dataset.preprocessing.errors import OptionError

#: The MLPerf benchmark's table size.
DEFAULT_MAX_TABLE_ROWS = 40_000_000
DEFAULT_TRAIN_DAYS = "0-22"
DEFAULT_TEST_DAY = 23
_UNITS = {"": 1, "B": 1, "K": 10**3, "KB": 10**3, "M": 10**6, "MB": 10**6, "G": 10**9, "GB": 10**9}
_UNITS.update({"T": 10**12, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40})
_MIN_MEMORY, _MAX_MEMORY = 1 << 30, 1 << 50
#: No machine has more cores.
MAX_JOBS = 1024
_MAX_ROWS = 2**31 - 1
#: The number of digits is bounded, since Fraction would compute 1e999999999.
_SIZE = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([A-Za-z]*)\s*")
_FRACTION = re.compile(r"\s*([0-9]{0,20}(?:\.[0-9]{0,20})?(?:[eE]-?[0-9]{1,2})?)\s*(%?)")


def parse_bytes(text: str, flag: str) -> int:
    """Returns the number of bytes of a text such as "8GiB", "500MB" or "1000000".

    Args:
        text: the text.
        flag: the flag that it comes from, without dashes, for errors.

    Raises:
        OptionError: the text is not a size.
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match.group(2).upper()) if match else None
    if match is None or unit is None:
        raise OptionError.of_flag(flag, text, "expected a number with a unit, such as 8GiB")
    return int(Fraction(match.group(1)) * unit)


def parse_fraction(text: str, flag: str) -> Fraction:
    """Returns the Fraction in [0, 1) of a text such as "0.0001" or "0.01%".

    Args:
        text: the text.
        flag: the flag that it comes from, without dashes, for errors.

    Raises:
        OptionError: the text is not a fraction in [0, 1).
    """
    match = _FRACTION.fullmatch(text)
    try:
        value = Fraction(match.group(1)) if match else None
    except ValueError:  # There is no digit.
        value = None
    if match is None or value is None:
        raise OptionError.of_flag(flag, text, "expected a fraction such as 0.0001 or 0.01%")
    value /= 100 if match.group(2) else 1
    if not 0 <= value < 1:
        raise OptionError.of_flag(flag, text, "expected at least 0 and less than 1", bound=1)
    return value


def _check_range(flag, value, least, most, text=""):
    if not least <= value <= most:
        bound, problem = least if value < least else most, text or f"expected {least} to {most}"
        raise OptionError.of_flag(flag, value, problem, bound=bound)


@dataclasses.dataclass
class Options:
    """A preprocessing run.

    Attributes:
        input: folder, file or glob.
        output: folder to write to.
        train_days: day numbers, in order; None with `test_fraction`.
        test_day: day number; None for no test set, or with `test_fraction`.
        test_fraction: share of all rows that becomes the test set: the last rows.
        max_table_rows: M of the modulo rule.
        frequency_threshold: T of the frequency rule; None for the modulo rule.
        dictionary: folder of a saved dictionary to use instead of counting.
        unseen: for values that a reused modulo dictionary lacks: "error", or "zero" for id 0.
        negatives: "zero" or "keep".
        write_validation: also write the other half of the test day.
        max_rejects: share of malformed lines above which the run fails.
        layout: "raw" or "per_table".
        engine: "duckdb" or "spark".
        master: Spark master URL; None for local[jobs].
        spark_conf: more Spark settings.
        memory_limit: bytes.
        jobs: number of processes and threads.
        work_dir: folder for parts and journal; "" for `<output>/.preprocess`.
        keep_parts: keep the parsed parts, so that a run with other options skips parsing.
        overwrite: replace the complete result of an earlier run in `output`.
    """

    input: str
    output: str
    train_days: tuple[int, ...] | None = None
    test_day: int | None = None
    test_fraction: Fraction | None = None
    max_table_rows: int | None = DEFAULT_MAX_TABLE_ROWS
    frequency_threshold: int | None = None
    dictionary: str | None = None
    unseen: str = "error"
    negatives: str = "zero"
    write_validation: bool = False
    max_rejects: Fraction = Fraction(1, 10000)
    layout: str = "raw"
    engine: str = "duckdb"
    master: str | None = None
    spark_conf: dict[str, str] = dataclasses.field(default_factory=dict)
    memory_limit: int = 8 << 30
    jobs: int = 1
    work_dir: str = ""
    keep_parts: bool = False
    overwrite: bool = False

    def __post_init__(self):
        """Raises `OptionError` if an option is invalid or contradicts another."""
        self.output = os.path.abspath(self.output)
        self.work_dir = os.path.abspath(self.work_dir or os.path.join(self.output, ".preprocess"))
        if self.dictionary is not None:
            self.dictionary = os.path.abspath(self.dictionary)
        _check_range("jobs", self.jobs, 1, MAX_JOBS)
        sizes = "expected 1GiB to 1024TiB"
        _check_range("memory_limit", self.memory_limit, _MIN_MEMORY, _MAX_MEMORY, sizes)
        if self.frequency_threshold is not None:
            _check_range("frequency_threshold", self.frequency_threshold, 1, _MAX_ROWS)
        else:
            _check_range("max_table_rows", self.max_table_rows, 1, _MAX_ROWS)
        if self.test_fraction is not None:
            if self.train_days is not None or self.test_day is not None:
                raise OptionError(
                    "--test_fraction splits by rows; remove --train_days and --test_day",
                    flag="test_fraction",
                )
            if not 0 < self.test_fraction < 1:
                problem = "expected more than 0 and less than 1"
                raise OptionError.of_flag("test_fraction", self.test_fraction, problem)
        elif self.test_day in (self.train_days or ()):
            raise OptionError.of_flag("test_day", self.test_day, "is also one of --train_days")
        if self.write_validation and self.test_day is None:
            raise OptionError(
                "--write_validation writes half of the test day; give --test_day too",
                flag="write_validation",
            )
        if self.engine != "spark" and (self.master or self.spark_conf):
            flag = "master" if self.master else "spark_conf"
            raise OptionError(f"--{flag} requires --engine=spark", flag=flag)
        if self.unseen != "error" and self.dictionary is None:
            raise OptionError("--unseen requires --dictionary", flag="unseen")
