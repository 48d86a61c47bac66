"""Measures a step's embedding part on several ranks of this machine, and its lower bound.

    python3 -m benchmarks.hybrid [--json FILE] [--ranks 1,2,4] [--batch 8192]

Runs horovodrun for each number of ranks. A step: exchange ids, look up rows, exchange vectors,
exchange gradients, update rows (SGD). The floor of a step is the larger of two times: rows (each
row read once for the lookup, read and written once for the update, at the rates of
`benchmarks.machine`) and exchange (the same bytes through a bare Horovod alltoall, measured in the
same run). Ids follow a power law or are uniform.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import results_file
from storage.arguments import first_paragraph, whole_number, whole_numbers
from storage.atomic import write_json

if TYPE_CHECKING:
    from benchmarks.machine import MachineLimits
    from training.runtime.process_group import ProcessGroup

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Criteo's tables with at most 1 M rows each: 3.6 GB at D = 128.
VOCAB = (
    1000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 1000000, 1000000, 405282, 10, 2209,
    11938, 155, 4, 976, 14, 1000000, 1000000, 1000000, 590152, 12973, 108, 36,
)  # fmt: skip
DIMENSION = 128
POWER = 1.05
WARMUP = 3
#: (placement, --dedup_ids, distribution of ids).
CASES = [(placement, compress, law)
         for compress, law in ((False, "power law"), (True, "power law"), (False, "uniform"))
         for placement in ("table", "row")]  # fmt: skip


def power_law_ids(
    generator: np.random.Generator, batch: int, vocab_sizes: Sequence[int]
) -> np.ndarray:
    """Returns int32 [batch, T]: id i of a table with probability proportional to (i + 1)^-1.05."""
    columns = []
    for rows in vocab_sizes:
        # Inverse of the cumulative distribution function.
        u = generator.random(batch)
        top = (rows + 1.0) ** (1 - POWER)
        columns.append((1 + u * (top - 1)) ** (1 / (1 - POWER)) - 1)
    ids = np.stack(columns, axis=1).astype(np.int64)
    return np.minimum(ids, np.array(vocab_sizes) - 1).astype(np.int32)


def uniform_ids(
    generator: np.random.Generator, batch: int, vocab_sizes: Sequence[int]
) -> np.ndarray:
    """Returns int32 [batch, T], uniform ids of each table."""
    return generator.integers(0, np.array(vocab_sizes), (batch, len(vocab_sizes)), dtype=np.int32)


def _time(function: Callable[[], Any], repeats: int) -> float:
    for _ in range(WARMUP):
        function()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def work(options: argparse.Namespace) -> None:
    """Measures on this job's ranks. Rank 0 writes the rows as JSON."""
    from training.runtime import environment

    environment.prepare()
    import tensorflow as tf

    from model.embedding.interface import EmbeddingOptions, lookup, update
    from model.embedding.placement import plan
    from model.embedding.sharded import ShardedEmbedding
    from training.runtime import process_group

    cluster = process_group.connect()
    generator = np.random.default_rng(cluster.rank)
    local = options.batch // cluster.size
    rows = []
    for policy, compress, law in CASES:
        draw = power_law_ids if law == "power law" else uniform_ids
        placement = plan(VOCAB, DIMENSION, cluster.size, policy=policy)
        embedding = ShardedEmbedding(
            placement, cluster, local, EmbeddingOptions(seed=1, compress=compress)
        )
        batches = [tf.constant(draw(generator, local, VOCAB)) for _ in range(4)]
        following = itertools.cycle(batches)

        @tf.function
        def step(ids, embedding=embedding):
            planned = embedding.plan_ids(ids)
            vectors = lookup(embedding, planned)
            update(embedding, planned, vectors, tf.constant(1e-6))
            return tf.size(planned.ids), planned.send_splits

        def run(step=step, following=following):
            return step(next(following))[0].numpy()

        seconds = _time(run, options.repeats)
        looked_up, sent = step(batches[0])
        away = int(np.delete(np.asarray(sent), cluster.rank).sum()) if cluster.size > 1 else 0
        width = DIMENSION * 4
        bare = _bare_exchange(cluster, np.asarray(sent), width, options.repeats)
        total_rows, total_away, slowest, floor = (
            cluster.gather(float(v)) for v in (looked_up, away, seconds, bare)
        )
        rows.append({
            "ranks": cluster.size, "placement": policy, "compress": compress, "ids": law,
            "step_ms": 1e3 * max(slowest), "rows": sum(total_rows),
            "exchanged_bytes": 2 * width * sum(total_away), "exchange_floor_ms": 1e3 * max(floor),
        })  # fmt: skip
        del embedding
    if cluster.rank == 0:
        write_json(options.output, rows)
    cluster.shutdown()


def _bare_exchange(cluster: ProcessGroup, sent: np.ndarray, width: int, repeats: int) -> float:
    """Returns the seconds of two bare alltoalls of this step's vectors: forward and back."""
    import tensorflow as tf

    if cluster.size == 1:
        return 0.0
    payload = tf.zeros([int(sent.sum()), width // 4])
    splits = tf.constant(sent, tf.int32)

    @tf.function
    def both():
        there, counts = cluster.alltoall(payload, splits, "bare_forward")
        back, _ = cluster.alltoall(there, counts, "bare_backward")
        return tf.shape(back)

    return _time(lambda: both().numpy(), repeats)


def main() -> None:
    """Runs a job for each number of ranks and prints one table."""
    parser = argparse.ArgumentParser(description=first_paragraph(__doc__))
    parser.add_argument("--ranks", type=whole_numbers(1, 1 << 10), default="1,2,4")
    parser.add_argument("--batch", type=whole_number(1), default=8192, help="global batch")
    parser.add_argument("--repeats", type=whole_number(1), default=9)
    parser.add_argument("--json", type=results_file.target, help="file to write the rows to")
    parser.add_argument("--worker", dest="output", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.output:
        work(options)
        return
    from benchmarks import machine

    limits = machine.measure(repetitions=5)
    rows = []
    for ranks in options.ranks:
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "rows.json"
            program = ["./hvd_wrapper.sh", sys.executable, "-m", "benchmarks.hybrid",
                       "--worker", str(output), "--batch", str(options.batch),
                       "--repeats", str(options.repeats)]  # fmt: skip
            if ranks > 1:
                horovodrun = pathlib.Path(sys.executable).parent / "horovodrun"
                program = [str(horovodrun), "-np", str(ranks), *program]
            subprocess.run(program, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            rows += json.loads(output.read_text())
    for row in rows:
        row["row_floor_ms"] = 1e3 * row["rows"] * (
            1 / limits.row_reads_per_second + 1 / limits.row_updates_per_second
        )  # fmt: skip
        # All ranks share this machine's memory, so exchange and rows do not overlap.
        row["floor_ms"] = max(row["row_floor_ms"], row["exchange_floor_ms"])
        row["ratio"] = row["step_ms"] / row["floor_ms"]
    _print(rows, options, limits)
    if options.json:
        report = {"machine": vars(limits), "batch": options.batch, "rows": rows}
        results_file.write(options.json, "hybrid", report)


def _print(
    rows: Sequence[dict[str, Any]], options: argparse.Namespace, limits: MachineLimits
) -> None:
    print(
        f"{limits.processor}, {limits.threads} threads, load average {limits.load:.1f}; "
        f"global batch {options.batch}, {len(VOCAB)} tables, "
        f"{sum(VOCAB) * DIMENSION * 4 / 1e9:.1f} GB, "
        f"float32; medians of {options.repeats}"
    )
    print(
        "| ranks | placement | compress | ids | rows looked up | exchanged MB | step ms | rows' "
        "floor ms | exchange's floor ms | step / floor |"
    )
    print("|" + "---|" * 10)
    for row in rows:
        print(
            f"| {row['ranks']} | {row['placement']} | {'yes' if row['compress'] else 'no'} "
            f"| {row['ids']} | {row['rows']:,.0f} | {row['exchanged_bytes'] / 1e6:.1f} "
            f"| {row['step_ms']:.1f} | {row['row_floor_ms']:.1f} | {row['exchange_floor_ms']:.1f} "
            f"| {row['ratio']:.2f} |"
        )


if __name__ == "__main__":
    main()
