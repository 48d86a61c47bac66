"""Compares the cost of the AUC of a large test set with scikit-learn's.

    python3 -m benchmarks.auc [--samples N] [--compared N] [--json FILE]

Each row is a separate job, two ranks under horovodrun. Scores are logits rounded to 1/1000, so that
most of them tie, in batches of 65,536, as in an evaluation. Time is from the first batch to the
area, without drawing the batches. Memory is the process' peak less its memory before the first
batch; it includes the scores.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import machine, results_file
from storage.arguments import first_paragraph, whole_number
from storage.atomic import write_json

if TYPE_CHECKING:
    from training.metrics.binned_auc import BinnedAuc
    from training.metrics.exact_auc import ExactAuc
    from training.runtime.process_group import ProcessGroup

CRITEO_TEST_SAMPLES = 89_137_319
BATCH = 65536
ROOT = pathlib.Path(__file__).resolve().parents[1]


def batches(samples: int, rank: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (float32 scores, int8 labels) of this rank's batches, a partition of all."""
    for number, begin in enumerate(range(0, samples, BATCH)):
        if number % size == rank:
            generator = np.random.default_rng(number)
            count = min(BATCH, samples - begin)
            logits = generator.normal(-3.5, 1.2, count)
            labels = generator.random(count) < 1 / (1 + np.exp(-logits))
            yield np.round(logits, 3).astype(np.float32), labels.astype(np.int8)


def _resident(field: str) -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field):
                return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def _collected(
    metric: ExactAuc | BinnedAuc, samples: int, cluster: ProcessGroup
) -> tuple[float, float]:
    """Returns (area, seconds) of one of the project's metrics."""
    seconds = 0.0
    for scores, labels in batches(samples, cluster.rank, cluster.size):
        begin = time.perf_counter()
        metric.add(scores, labels)
        seconds += time.perf_counter() - begin
    cluster.all_reduce_sum([0.0])  # a barrier
    begin = time.perf_counter()
    area = metric.result(cluster)
    return area, seconds + time.perf_counter() - begin


def _scikit_learn(samples: int) -> tuple[float, float]:
    """Returns (area, seconds) of scikit-learn's function, which takes complete arrays."""
    from sklearn.metrics import roc_auc_score

    scores, labels = np.empty(samples, np.float32), np.empty(samples, np.int8)
    for number, (some, their) in enumerate(batches(samples, 0, 1)):
        place = slice(number * BATCH, number * BATCH + some.size)
        scores[place], labels[place] = some, their
    begin = time.perf_counter()
    area = roc_auc_score(labels, scores)
    return float(area), time.perf_counter() - begin


def work(method: str, samples: int, target: str) -> None:
    """Measures on this job's ranks. Rank 0 writes the row as JSON."""
    from training.runtime import environment

    environment.prepare()
    import sklearn.metrics  # noqa: F401  not while timing

    from training.evaluation import METRICS
    from training.runtime import process_group

    cluster = process_group.connect()
    cluster.all_reduce_sum([0.0])
    before = _resident("VmRSS:")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    if method == "scikit-learn":
        area, seconds = _scikit_learn(samples)
    else:
        area, seconds = _collected(METRICS[method](), samples, cluster)
    peak = _resident("VmHWM:") - before
    row = {
        "method": method, "ranks": cluster.size, "samples": samples, "auc": area,
        "seconds": max(cluster.gather(seconds)),
        "peak_bytes": int(max(cluster.gather(float(peak)))),
    }  # fmt: skip
    if cluster.rank == 0:
        write_json(target, row)
    cluster.shutdown()


def measure(method: str, ranks: int, samples: int) -> dict[str, Any]:
    """Runs one job and returns the row that `work` writes."""
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder, "row.json")
        command = [
            sys.executable, "-m", "benchmarks.auc", "--work", method, "--samples", str(samples),
            "--json", str(target),
        ]  # fmt: skip
        if ranks > 1:
            horovodrun = pathlib.Path(sys.executable).parent / "horovodrun"
            command = [str(horovodrun), "-np", str(ranks), *command]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not target.exists():
            sys.exit(f"error: {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return json.loads(target.read_text())


def main() -> None:
    """Prints the table and writes it as JSON with --json."""
    parser = argparse.ArgumentParser(description=first_paragraph(__doc__))
    count = whole_number(1, 1 << 40)
    parser.add_argument("--samples", type=count, default=CRITEO_TEST_SAMPLES,
                        help=f"samples of the large test set [{CRITEO_TEST_SAMPLES}]")  # fmt: skip
    parser.add_argument("--compared", type=count, default=10_000_000,
                        help="samples of the comparison with scikit-learn [10000000]")  # fmt: skip
    parser.add_argument("--json", type=results_file.target, help="file to write the rows to")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.samples, options.json)
        return
    load = os.getloadavg()[0]
    print(f"{machine.processor()}, {machine.threads()} threads, load average {load:.1f}")
    print("| method | ranks | samples | seconds | peak MB per rank | bytes per sample | AUC |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for method, ranks, samples in (
        ("scikit-learn", 1, options.compared),
        ("exact", 1, options.compared),
        ("binned", 1, options.compared),
        ("exact", 1, options.samples),
        ("exact", 2, options.samples),
        ("binned", 1, options.samples),
    ):
        row = measure(method, ranks, samples)
        rows.append(row)
        peak = row["peak_bytes"]
        print(
            f"| {method} | {ranks} | {samples:,} | {row['seconds']:.2f} | {peak / 1e6:.0f} | "
            f"{peak / samples * ranks:.1f} | {row['auc']:.12f} |",
            flush=True,
        )
    areas = [row["auc"] for row in rows]
    print(
        f"differences: exact - scikit-learn {abs(areas[1] - areas[0]):.1e}, two ranks - one "
        f"{abs(areas[4] - areas[3]):.1e}, binned - exact {abs(areas[5] - areas[3]):.1e}"
    )
    if options.json:
        report = {
            "processor": machine.processor(), "threads": machine.threads(), "load_average": load,
            "rows": rows,
        }  # fmt: skip
        results_file.write(options.json, "auc", report)


if __name__ == "__main__":
    main()
