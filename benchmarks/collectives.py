"""Measures what a collective costs on several ranks of this machine, by message size.

    python3 -m benchmarks.collectives [--ranks 2] [--json FILE]

Runs horovodrun for each number of ranks, with the trainer's process group and settings. The
all-to-all has constant splits, as with table-wise placement. The allreduce is measured with one
tensor, and with 16 tensors in the proportions of the default model's MLPs. The dense gradients of
that model, with loss and votes, are averaged as 18 tensors, and as one buffer, the copy into it
included. In each round all ways of a size take turns. Latency is the time of a collective in a
chain of dependent ones within one tf.function.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import results_file
from planner.published_runs import VOCABULARIES
from planner.workload import ModelShape
from storage.arguments import first_paragraph, number, whole_number, whole_numbers
from storage.atomic import write_json

if TYPE_CHECKING:
    import tensorflow as tf

    from training.runtime.process_group import ProcessGroup

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZES = tuple(4 * 4**power for power in range(13))  # to 64 MiB
VOTES = 2
WARMUP = 3
# The chain of small messages hides TensorFlow's time per call.
CHAIN, CHAIN_BYTES = 16, 2**16

Call = Callable[[], Any]


def gradient_shapes() -> list[tuple[int, ...]]:
    """Returns the shapes of the dense gradients of the default model: kernels and biases."""
    layers = ModelShape(VOCABULARIES["mlperf"]).layers
    return [shape for inputs, outputs in layers for shape in ((inputs, outputs), (outputs,))]


def divide(total: int, weights: Sequence[int]) -> list[int]:
    """Divides `total` elements in the proportions of the weights, at least 1 for each.

    Raises:
        ValueError: fewer elements than weights.
    """
    if total < len(weights):
        raise ValueError(f"expected at least {len(weights)} elements, found {total}")
    ends = np.cumsum(weights) * (total - len(weights)) // sum(weights)
    return [int(part) + 1 for part in np.diff(np.r_[0, ends])]


class Worker:
    """The measurements of one rank.

    Args:
        cluster: the ranks.
        rounds: calls of each way.
    """

    def __init__(self, cluster: ProcessGroup, rounds: int):
        import tensorflow as tf

        self._tf, self._cluster, self._rounds = tf, cluster, rounds
        self._names = itertools.count()

    def rows(self, sizes: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the measured rows for messages of these sizes in bytes, and the gradients."""
        parts = [int(np.prod(shape)) for shape in gradient_shapes()]
        found = []
        for size in sizes:
            chain = CHAIN if size <= CHAIN_BYTES else 1
            ways = {"alltoall": self._alltoall(size, chain)}
            ways["allreduce"] = self._allreduce([(size // 4,)], chain)
            if size // 4 >= len(parts):
                shapes = [(part,) for part in divide(size // 4, parts)]
                ways["allreduce, 16 tensors"] = self._allreduce(shapes, chain)
            found += self._measure(ways, chain, size)
        shapes = [*gradient_shapes(), (), (VOTES,)]
        size = 4 * sum(int(np.prod(shape)) for shape in shapes)
        ways = {
            "gradients, 18 tensors": self._allreduce(shapes, 1),
            "gradients, one buffer": self._flat(shapes),
            "gradients, one buffer, without the copy": self._allreduce([(size // 4,)], 1),
        }
        return found + self._measure(ways, 1, size)

    def _input(self, shape):
        """Returns a tensor whose mean over the ranks is (N - 1) / 2."""
        return self._tf.Variable(self._tf.fill(shape, float(self._cluster.rank)))

    def _alltoall(self, size: int, chain: int) -> Call:
        tf, ranks = self._tf, self._cluster.size
        each = max(1, size // (4 * ranks))
        source, splits = self._input((each * ranks,)), tf.constant([each] * ranks)
        names = [f"alltoall_{next(self._names)}" for _ in range(chain)]

        @tf.function
        def exchange():
            tensor = source.read_value()
            for name in names:
                tensor, _ = self._cluster.alltoall(tensor, splits, name)
            return tensor

        # An odd number of exchanges delivers each rank's number, an even number returns its own.
        own = np.full(each * ranks, self._cluster.rank)
        expected = own if chain % 2 == 0 else np.repeat(np.arange(ranks), each)
        return _checked(lambda: [exchange()], [expected])

    def _allreduce(self, shapes: Sequence[tuple[int, ...]], chain: int) -> Call:
        tf = self._tf
        sources = [self._input(shape) for shape in shapes]
        names = [f"allreduce_{next(self._names)}" for _ in range(chain)]

        @tf.function
        def reduce():
            tensors = [source.read_value() for source in sources]
            for name in names:
                tensors = self._cluster.all_reduce_mean(tensors, name)
            return tensors

        return _checked(reduce, [np.full(shape, self._mean) for shape in shapes])

    def _flat(self, shapes: Sequence[tuple[int, ...]]) -> Call:
        tf = self._tf
        sources = [self._input(shape) for shape in shapes]
        name = f"allreduce_{next(self._names)}"

        @tf.function
        def reduce():
            flat = tf.concat([tf.reshape(source, [-1]) for source in sources], 0)
            return self._cluster.all_reduce_mean([flat], name)

        return _checked(reduce, [np.full(sum(int(np.prod(s)) for s in shapes), self._mean)])

    @property
    def _mean(self) -> float:
        return (self._cluster.size - 1) / 2

    def _measure(self, ways: dict[str, Call], chain: int, size: int) -> list[dict[str, Any]]:
        """Times the ways in turn; returns a row for each, with the slowest rank's median."""
        times: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(WARMUP + self._rounds):
            for name, call in ways.items():
                # All ranks begin together: a wait for a late rank is no cost of the collective.
                self._cluster.gather(0.0)
                begin = time.perf_counter()
                call()
                if round_ >= WARMUP:
                    times[name].append((time.perf_counter() - begin) / chain)
        return [
            {
                "ranks": self._cluster.size, "collective": name, "bytes": size, "chain": chain,
                "seconds": max(self._cluster.gather(statistics.median(taken))),
                "seconds_low": max(self._cluster.gather(float(np.quantile(taken, 0.1)))),
                "seconds_high": max(self._cluster.gather(float(np.quantile(taken, 0.9)))),
            }
            for name, taken in times.items()
        ]  # fmt: skip


def _checked(call: Callable[[], Sequence[tf.Tensor]], expected: Sequence[np.ndarray]) -> Call:
    """Returns the call, after one whose results are compared with the expected ones.

    Raises:
        RuntimeError: a result differs.
    """
    for tensor, values in zip(call(), expected):
        if not np.array_equal(tensor.numpy(), values):
            raise RuntimeError(
                f"a collective returned wrong values: expected {np.unique(values)}, found "
                f"{np.unique(tensor.numpy())[:10]}"
            )
    return call


def work(options: argparse.Namespace) -> None:
    """Measures on this job's ranks. Rank 0 writes the rows as JSON."""
    from training.runtime import environment, process_group

    environment.prepare()
    cluster = process_group.connect()
    rows = Worker(cluster, options.rounds).rows(options.sizes)
    if cluster.rank == 0:
        write_json(options.output, rows)
    cluster.shutdown()


def run(ranks: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs the workers of one job; returns their rows.

    Raises:
        subprocess.CalledProcessError: a rank failed; its output was printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "rows.json"
        program = ["./hvd_wrapper.sh", sys.executable, "-m", "benchmarks.collectives",
                   "--worker", str(output), "--rounds", str(options.rounds),
                   "--sizes", ",".join(map(str, options.sizes))]  # fmt: skip
        horovodrun = str(pathlib.Path(sys.executable).parent / "horovodrun")
        command = [horovodrun, "--gloo", "-np", str(ranks), *program]
        settings = {"HOROVOD_CYCLE_TIME": f"{options.cycle_time:g}"}
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **settings}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            print(done.stdout, file=sys.stderr)
            done.check_returncode()
        return json.loads(output.read_text())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks.collectives", description=first_paragraph(__doc__)
    )
    parser.add_argument(
        "--ranks", type=whole_numbers(2, 1 << 10), default="2", help="numbers of ranks"
    )
    parser.add_argument(
        "--sizes", type=whole_numbers(4, 1 << 30), default=",".join(map(str, SIZES)),
        help="bytes of a rank's message, all its parts together",
    )  # fmt: skip
    parser.add_argument("--rounds", type=whole_number(1), default=15, help="calls of each way")
    parser.add_argument(
        "--cycle_time", type=number(0.001, 1000), default=0.1,
        help="HOROVOD_CYCLE_TIME in ms (default: the trainer's)",
    )  # fmt: skip
    parser.add_argument("--json", type=results_file.target, help="file to write the rows to")
    parser.add_argument("--worker", dest="output", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a job for each number of ranks, prints one table; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    if options.output:
        work(options)
        return 0
    load = os.getloadavg()[0]
    try:
        rows = [row for ranks in options.ranks for row in run(ranks, options)]
    except subprocess.CalledProcessError as error:
        print(f"collectives: horovodrun failed with status {error.returncode}", file=sys.stderr)
        return 1
    print(f"cycle time {options.cycle_time:g} ms, load before {load:.1f}, "
          f"medians of {options.rounds}")  # fmt: skip
    print("| ranks | collective | bytes | us | 10 % | 90 % | MB/s |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['ranks']} | {row['collective']} | {row['bytes']:,} "
              f"| {row['seconds'] * 1e6:.0f} | {row['seconds_low'] * 1e6:.0f} "
              f"| {row['seconds_high'] * 1e6:.0f} "
              f"| {row['bytes'] / row['seconds'] / 1e6:.1f} |")  # fmt: skip
    if options.json:
        results_file.write(options.json, "collectives", {
            "command": shlex.join(["python3", "-m", "benchmarks.collectives", *given]),
            "cycle_time_ms": options.cycle_time, "load_before": load, "rounds": options.rounds,
            "rows": rows,
        })  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
