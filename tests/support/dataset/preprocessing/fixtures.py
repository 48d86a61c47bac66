"""Makes days, and runs preprocessing on them without waiting for a disk."""

import random

import numpy as np
import pytest

from dataset.preprocessing import native, options, pipeline


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Waits for no disk: a killed process loses none of its pages."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def kernels():
    """Without the library, their tests have nothing to run: `make test` builds it."""
    if not native.PATH.exists():
        pytest.skip(f"{native.PATH} is not built")
    assert native.load() is not None, f"{native.PATH} does not fit these sources: make ops"
    return native.load()


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


@pytest.fixture
def preprocess(tmp_path):
    """Runs preprocessing below tmp_path; returns (report, lines that it said)."""

    def run(**given):
        said = []
        report = pipeline.run(run_options(tmp_path, **given), say=said.append)
        return report, said

    return run


def records_of(path):
    """Returns int32 [n, 40] of a raw file."""
    return np.fromfile(path, "<i4").reshape(-1, 40)


def random_lines(seed, lines, bad=0.0):
    """Returns lines (str, without LF): skewed values, missing ones, negatives, some malformed."""
    rng = random.Random(seed)
    made = []
    for _ in range(lines):
        fields = [str(int(rng.random() < 0.3))]
        for _ in range(13):
            kind = rng.random()
            fields.append("" if kind < 0.15 else str(int(rng.paretovariate(0.3) % 2**31) - 2))
        for column in range(26):
            kind = rng.random()
            value = int(rng.paretovariate(0.7)) % (5 if column % 4 == 0 else 10**9)
            value = value * 2654435761 % 2**32 if column % 3 else value
            fields.append("" if kind < 0.1 else f"{value:08x}")
        if rng.random() < bad:
            spot = rng.randrange(40)
            fields[spot] = rng.choice(
                ["x", "1.5", "123456789", "2", "--1", "", " 1", "99999999999"]
            )
            if rng.random() < 0.3:
                del fields[rng.randrange(len(fields))]
        made.append("\t".join(fields))
    return made


def write_days(folder, *days):
    """Writes lists of lines as day_0, day_1, ... below `folder`/days."""
    target = folder / "days"
    target.mkdir(exist_ok=True)
    for number, lines in enumerate(days):
        (target / f"day_{number}").write_text("".join(line + "\n" for line in lines))
    return target
