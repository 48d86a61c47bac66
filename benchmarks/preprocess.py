"""Measures preprocess.py on generated Criteo TSV: time, MB/s, CPU, memory, disk.

    python3 benchmarks/preprocess.py --folder /tmp/criteo --gigabytes 10

Writes day_0 .. day_N (about 1 GB each) with five tables of more than ten million distinct values
and 21 tables of MLPerf's sizes, runs preprocess.py on them, and prints one JSON object. Line
lengths (about 260 bytes), missing and negative values are similar to Criteo's files.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import psutil

from storage.arguments import first_paragraph, number
from storage.atomic import encode_json

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dataset import command_line  # noqa: E402
from storage.claim import make_owned_folder  # noqa: E402

#: Marks a folder whose contents this program created and may remove.
MARKER = ".preprocess-benchmark"
#: Distinct values of each table; LARGE stands for the tables above 10 million.
LARGE = 12_000_000
TABLE_VALUES = (
    LARGE, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, LARGE, 2953546, 403346, 10, 2208, 11938,
    155, 4, 976, 14, LARGE, LARGE, LARGE, 585935, 12972, 108, 36,
)  # fmt: skip
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_HEX_PAIRS = np.stack([_DIGITS[np.arange(256) >> 4], _DIGITS[np.arange(256) & 15]], 1)
_LINES_AT_ONCE = 1 << 16
_DECIMAL_DIGITS = 5


def make_lines(rng: np.random.Generator, lines: int) -> np.ndarray:
    """Returns the bytes of `lines` random TSV lines."""
    width = 2 + 13 * (_DECIMAL_DIGITS + 2) + 26 * 9
    text = np.zeros((lines, width), np.uint8)
    used = np.ones((lines, width), bool)
    text[:, 0] = ord("0") + (rng.random(lines) < 0.03)
    text[:, 1] = ord("\t")
    at = 2
    for feature in range(13):
        # Counts with a long tail, -1 or more.
        number = np.exp(rng.random(lines) * (3 + feature % 4 * 1.5)).astype(np.int32) - 2
        missing = rng.random(lines) < 0.1
        text[:, at] = ord("-")
        used[:, at] = (number < 0) & ~missing
        number = np.abs(number)
        for digit in range(_DECIMAL_DIGITS):
            power = 10 ** (_DECIMAL_DIGITS - 1 - digit)
            text[:, at + 1 + digit] = ord("0") + number // power % 10
            used[:, at + 1 + digit] = ((number >= power) | (power == 1)) & ~missing
        text[:, at + 1 + _DECIMAL_DIGITS] = ord("\t")
        at += _DECIMAL_DIGITS + 2
    for table, values in enumerate(TABLE_VALUES):
        value = np.exp(rng.random(lines) * np.log(values)).astype(np.int64)  # Zipf: p ~ 1/rank.
        if values > 1_000_000:
            # A large table's tail: most draws are values that occur only a few times.
            tail = rng.random(lines) < 0.6
            value[tail] = rng.integers(1, values + 1, np.count_nonzero(tail))
        hashed = (value * 2654435761 + table * 977).astype(np.uint32)
        digits = _HEX_PAIRS[hashed.astype(">u4").view(np.uint8)].reshape(lines, 8)
        text[:, at : at + 8] = digits
        used[:, at : at + 8] = (rng.random(lines) >= 0.03)[:, None] if table % 3 else True
        text[:, at + 8] = ord("\t")
        at += 9
    text[:, -1] = ord("\n")
    return text[used]


def generate(folder: pathlib.Path, total_bytes: float) -> int:
    """Writes the missing of day_0, day_1, ... (about 1 GB each); returns the number of days."""
    folder.mkdir(parents=True, exist_ok=True)
    days = max(2, round(total_bytes / 1e9))
    for day in range(days):
        path = folder / f"day_{day}"
        if path.exists():
            continue
        rng = np.random.default_rng(day)
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            while file.tell() < total_bytes / days:
                file.write(make_lines(rng, _LINES_AT_ONCE).data)
        partial.rename(path)
    return days


def _memory(process: psutil.Process) -> tuple[int, int]:
    """Returns (resident, proportional) bytes of a process and its descendants."""
    resident = proportional = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            memory = member.memory_full_info()
        except psutil.Error:
            continue
        resident += memory.rss
        proportional += memory.pss
    return resident, proportional


def _disk(folder: str | os.PathLike) -> int:
    """Returns the disk space in bytes of the files below a folder."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(base, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def measure(command: Sequence[str], output: str | os.PathLike) -> dict[str, float]:
    """Runs a command and returns its time, memory and disk use."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    child = subprocess.Popen(command)
    process = psutil.Process(child.pid)
    peaks = [0, 0, 0]
    while child.poll() is None:
        try:
            found = (*_memory(process), _disk(output))
        except psutil.Error:
            break
        peaks = [max(pair) for pair in zip(peaks, found)]
        time.sleep(0.5)
    status = child.wait()
    seconds = time.monotonic() - start
    if status:
        sys.exit(f"{' '.join(command)}: expected exit status 0, found {status}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used, 1),
        "peak_resident_gib": round(peaks[0] / 2**30, 2),
        "peak_proportional_gib": round(peaks[1] / 2**30, 2),
        "peak_disk_gb": round(peaks[2] / 1e9, 2),
    }


def main() -> None:
    """Generates the days, runs preprocess.py and prints the measurements."""
    parser = argparse.ArgumentParser(
        description=first_paragraph(__doc__),
        epilog="Other flags, such as --memory_limit 8GiB, are passed to preprocess.py.",
    )
    parser.add_argument(
        "--folder", type=command_line.path, required=True, help="folder for input and output"
    )
    parser.add_argument("--gigabytes", type=number(0.001, 1e6), default=10, help="gigabytes of TSV")
    parser.add_argument("--keep", action="store_true", help="keep the generated days")
    parser.add_argument("--generate_only", action="store_true", help="only write the days")
    known, flags = parser.parse_known_args()
    known.folder = pathlib.Path(known.folder)
    try:
        make_owned_folder(known.folder, MARKER)
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    days = generate(known.folder / "days", known.gigabytes * 1e9)
    if known.generate_only:
        return
    output = known.folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, str(ROOT / "preprocess.py")]
    command += ["--input", str(known.folder / "days"), "--output", str(output)]
    command += ["--train_days", f"0-{days - 2}", "--test_day", str(days - 1), *flags]
    size = sum(path.stat().st_size for path in (known.folder / "days").iterdir())
    load = os.getloadavg()[0]
    taken = measure(command, output)
    report = json.loads((output / "report.json").read_text())
    columns = report["categorical"].values()
    result = {
        "flags": flags,
        "tsv_gb": round(size / 1e9, 2),
        "samples": report["lines"],
        "largest_distinct": sorted((column["distinct"] for column in columns), reverse=True)[:5],
        **taken,
        "mb_per_second": round(size / 1e6 / taken["seconds"], 1),
        "mb_per_cpu_second": round(size / 1e6 / taken["cpu_seconds"], 1),
        "cores": os.cpu_count(),
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
    }
    print(encode_json(result))
    shutil.rmtree(output)
    if not known.keep:
        shutil.rmtree(known.folder / "days")


if __name__ == "__main__":
    main()
