"""Makes days, and runs preprocessing on them without waiting for a disk."""

import numpy as np
import pytest

from dataset.preprocessing import options, pipeline


@pytest.fixture(autouse=True, scope="module")
def no_fsync():
    """Skips fsync: the pages of a killed process survive without it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


def run_options(folder, **given):
    """Returns Options for a small run: input `days` (or given), output `out` below `folder`."""
    defaults = {
        "input": str(folder / "days"),
        "output": str(folder / "out"),
        "jobs": 1,
        "memory_limit": 1 << 30,
        "max_table_rows": 1000,
    }
    return options.Options(**{**defaults, **given})


def run_quietly(folder, **given):
    """Runs preprocessing below `folder`; returns (report, logged lines)."""
    lines = []
    report = pipeline.run(run_options(folder, **given), log=lines.append)
    return report, lines


@pytest.fixture
def preprocess(tmp_path):
    """`run_quietly` below tmp_path."""
    return lambda **given: run_quietly(tmp_path, **given)


def records_of(path):
    """Returns int32 [n, 40] of a raw file."""
    return np.fromfile(path, "<i4").reshape(-1, 40)


def files_below(folder):
    """Returns {path: bytes} of the files below a folder, without the work folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".preprocess" not in path.parts
    }


def random_lines(rng, lines, bad=0.0):
    """Returns lines (str, without LF): skewed values, missing ones, negatives, some malformed."""
    label = rng.random(lines) < 0.3
    counts = ((rng.pareto(0.3, (lines, 13)) + 1) % 2**31).astype(np.int64) - 2
    ranks = np.minimum(rng.pareto(0.7, (lines, 26)) + 1, 2**62).astype(np.int64) % 10**9
    ranks[:, ::4] %= 5
    values = np.where(np.arange(26) % 3, ranks * 2654435761 % 2**32, ranks)
    count_missing, value_missing = rng.random((lines, 13)) < 0.15, rng.random((lines, 26)) < 0.1
    made = []
    for row in range(lines):
        dense = np.where(count_missing[row], "", counts[row].astype(str)).tolist()
        hexadecimal = [f"{value:08x}" for value in values[row].tolist()]
        categorical = np.where(value_missing[row], "", hexadecimal).tolist()
        fields = [str(int(label[row])), *dense, *categorical]
        if rng.random() < bad:
            wrong = ["x", "1.5", "123456789", "2", "--1", "", " 1", "99999999999"]
            fields[rng.integers(40)] = str(rng.choice(wrong))
            if rng.random() < 0.3:
                del fields[rng.integers(40)]
        made.append("\t".join(fields))
    return made


def text_of(lines, end="\n"):
    """Returns lines as Latin-1 bytes."""
    return "".join(line + end for line in lines).encode("latin-1")


def write_days(folder, *days):
    """Writes lists of lines as day_0, day_1, ... below `folder`/days."""
    target = folder / "days"
    target.mkdir(exist_ok=True)
    for number, lines in enumerate(days):
        (target / f"day_{number}").write_bytes(text_of(lines))
    return target
