"""`--mode=inference_benchmark`: measures the latency of the forward pass for each batch size.

The latency is the time from a batch in memory to its logits in memory, without reading data.
Consecutive batches differ, so that their rows are not in the caches from the previous call.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from training.build import Parts, build
from training.checkpoint.compatibility import SYNTHETIC, with_model_of
from training.checkpoint.manifest import bags, dense_features
from training.checkpoint.reader import Reader
from training.checkpoint.restore import find_checkpoint
from training.checkpoint.weights import load_weights
from training.config import Config
from training.runtime import environment
from training.runtime.errors import EXIT_OK, DivergedError, UserError
from training.runtime.monitor import Monitor
from training.runtime.process_group import ProcessGroup
from training.sample_shape import SampleShape
from training.step import Forward
from training.telemetry.sinks import open_journal

PERCENTILES = (50, 90, 95, 99)
_SECONDS, _WARM_UP_SECONDS = 5.0, 0.5
_FEWEST_CALLS, _MOST_CALLS = 20, 20_000
# The batches of one size are cut from this many samples, but at least from _POOL_BATCHES batches.
_POOL_SAMPLES, _POOL_BATCHES, _MOST_BATCHES = 1 << 17, 4, 256


def run(config: Config, cluster: ProcessGroup, watch: Monitor) -> int:
    """Runs the mode; returns the exit code.

    Raises:
        UserError: the ranks do not divide a batch size, or the checkpoint does not match the flags.
        DivergedError: a logit is NaN or infinite.
    """
    sizes = batch_sizes(config, cluster.size)
    reader, shape = None, None
    if config.checkpoint.restore or config.checkpoint.checkpoint_dir:
        reader = find_checkpoint(config.checkpoint, cluster)
        shape = SampleShape(dense_features(reader.manifest), bags(reader.manifest, reader.folder))
        config = with_model_of(config, reader)
        if config.data.data_dir is None and config.data.vocab_sizes is None:
            config = config.with_values(
                vocab_sizes=",".join(map(str, reader.manifest["vocab_sizes"]))
            )
    config = config.with_values(global_batch_size=max(sizes))
    parts = build(config, cluster, shape)
    if reader is not None:
        load_weights(reader, parts, cluster, config.flags())
    facts = _facts(config, cluster, parts, reader)
    journal = open_journal(config.output, cluster)
    with contextlib.closing(journal):
        journal.emit("config", steps=0, **facts)
        if cluster.rank == 0:
            print(heading(facts), flush=True)
        rows = []
        for size in sizes:
            seconds = _measure(parts, cluster, size, watch)
            if seconds is not None:
                rows.append(row_of(size, seconds))
                journal.emit("latency", **rows[-1])
                print(line_of(rows[-1]), flush=True)
        journal.emit("end", latencies=rows, **facts)
    return EXIT_OK


def batch_sizes(config: Config, ranks: int) -> list[int]:
    """Returns the global batch sizes of --batch_sizes.

    The default sizes are rounded up to multiples of the number of ranks.

    Raises:
        UserError: the ranks do not divide a size that the user gave.
    """
    sizes = config.job.global_batch_sizes
    if "batch_sizes" not in config.given:
        return [-(-size // ranks) * ranks for size in sizes]
    for size in sizes:
        if size % ranks:
            problem = f"expected multiples of the number of ranks ({ranks}), found {size}"
            raise UserError.of_flag("batch_sizes", config.job.batch_sizes, problem, bound=ranks)
    return list(sizes)


def row_of(batch: int, seconds: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Returns one row of the table.

    Args:
        batch: global batch size in samples.
        seconds: duration of each call.
    """
    milliseconds = 1000 * np.asarray(seconds, np.float64)
    mean = float(milliseconds.mean())
    return {
        "batch": batch,
        "calls": int(milliseconds.size),
        "mean_ms": mean,
        **{f"p{p}_ms": float(np.percentile(milliseconds, p)) for p in PERCENTILES},
        "samples_per_second": 1000 * batch / mean,
    }


def heading(facts: Mapping[str, Any]) -> str:
    """Returns the lines above the table."""
    weights = "initial"
    if facts["checkpoint"] is not None:
        weights = f"step {facts['step']} of {facts['checkpoint']}"
    data = facts["data"]
    samples = "random"
    if data["layout"] != SYNTHETIC:
        samples = f"test data of {data['data_dir']}"
    names = "".join(f"{f'p{p} ms':>11}" for p in PERCENTILES)
    return "\n".join(
        [
            f"forward pass, ranks {facts['ranks']}, arithmetic {facts['dtype']}",
            f"weights: {weights}",
            f"batches: {samples}",
            f"{'batch':>8}{'mean ms':>11}{names}{'samples/s':>14}{'calls':>8}",
        ]
    )


def line_of(row: Mapping[str, Any]) -> str:
    """Returns a row of the table as text."""
    times = "".join(
        f"{row[name]:>11.3f}" for name in ("mean_ms", *(f"p{p}_ms" for p in PERCENTILES))
    )
    return f"{row['batch']:>8}{times}{row['samples_per_second']:>14,.0f}{row['calls']:>8}"


def _facts(
    config: Config, cluster: ProcessGroup, parts: Parts, reader: Reader | None
) -> dict[str, Any]:
    return {
        "mode": "inference_benchmark",
        "checkpoint": None if reader is None else str(reader.folder.resolve()),
        "step": None if reader is None else reader.manifest["step"],
        "dtype": parts.dtype.name,
        "ranks": cluster.size,
        "flags": config.flags(),
        "versions": environment.versions(),
        "data": parts.data.facts,
    }


def _measure(parts: Parts, cluster: ProcessGroup, size: int, watch: Monitor) -> np.ndarray | None:
    """Returns on rank 0 the seconds of each timed call, on the slowest rank; else None."""
    watch.pause()
    batches = _batches(parts, cluster, size)
    forward = Forward(parts.dense_model, parts.embedding.for_batch(size // cluster.size))
    invalid = 0

    def call(index: int) -> float:
        nonlocal invalid
        begin = time.perf_counter()
        logits = forward(batches[index % len(batches)]).numpy()
        seconds = time.perf_counter() - begin
        invalid += not np.isfinite(logits).all()
        return seconds

    call(0)  # traces and compiles
    first = [call(1 + index) for index in range(2)]
    calls = _agreed(cluster, _WARM_UP_SECONDS / max(first), 1, _MOST_CALLS)
    warm = []
    for index in range(calls):
        warm.append(call(index))
        watch.heartbeat(f"batches of {size}")
    calls = _agreed(cluster, _SECONDS / float(np.mean(warm)), _FEWEST_CALLS, _MOST_CALLS)
    seconds = np.empty(calls)
    for index in range(calls):
        seconds[index] = call(index)
        watch.heartbeat(f"batches of {size}")
    if invalid := int(cluster.all_reduce_sum([float(invalid)])[0]):
        raise DivergedError(
            f"{invalid} calls with {size} samples returned logits that are NaN or infinite: the "
            "weights or the dense values are not finite; try another checkpoint"
        )
    nothing = np.empty(0)
    gathered = cluster.alltoallv([seconds] + [nothing] * (cluster.size - 1))
    return gathered.reshape(-1, calls).max(axis=0) if cluster.rank == 0 else None


def _agreed(cluster: ProcessGroup, wanted: float, fewest: int, most: int) -> int:
    """Returns on all ranks the number of calls that rank 0 wants, within bounds."""
    calls = min(max(math.ceil(wanted), fewest), most)
    return int(cluster.all_reduce_sum(np.array([calls if cluster.rank == 0 else 0], np.int64))[0])


def _batches(parts: Parts, cluster: ProcessGroup, size: int) -> list[dict[str, tf.Tensor]]:
    """Returns batches of `size` samples over all ranks, distinct if there are enough samples."""
    local = size // cluster.size
    count = min(max(_POOL_SAMPLES // size, _POOL_BATCHES), _MOST_BATCHES)
    pool = parts.data.one_batch(count * size)
    dense, ids = pool["dense"].numpy(), pool["categorical"].numpy()
    available, slots = dense.shape[0], ids.shape[1]
    # [1, b, W], or with model-parallel input [N, b, W_r].
    ids = ids.reshape(-1, available, slots)
    batches = []
    for index in range(min(count, max(1, available // local))):
        taken = (index * local + np.arange(local)) % available
        batches.append(
            {
                "dense": tf.constant(dense[taken]),
                "categorical": tf.constant(ids[:, taken].reshape(-1, slots)),
            }
        )
    return batches
