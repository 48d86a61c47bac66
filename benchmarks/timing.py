"""Times an op, TensorFlow's formulation and the machine's limits in turn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import machine


@dataclasses.dataclass(frozen=True)
class Share:
    """A limit's time for the same work and the share of the limit that the op reaches."""

    limit: str
    limit_seconds: float
    share: float  # by the clock
    share_cpu: float  # by processor time


@dataclasses.dataclass(frozen=True)
class Row:
    """Medians of one case: seconds, shares of limits, speedup over TensorFlow."""

    op: str
    case: str
    seconds: float
    shares: tuple[Share, ...]
    tensorflow_seconds: float
    speedup: float  # by the clock
    speedup_cpu: float  # by processor time


def timed(call: Callable[[], Any]) -> np.ndarray:
    """Returns [wall seconds, processor seconds per core] of one call."""
    start, start_cpu = time.perf_counter(), time.process_time()
    call()
    wall = time.perf_counter() - start
    return np.array([wall, (time.process_time() - start_cpu) / machine.threads()])


@dataclasses.dataclass(frozen=True)
class Limit:
    """A probe of the machine and the op's work as a multiple of the probe's."""

    name: str
    probe: Callable[[], Any]
    factor: float


def compare(
    op: str,
    case: str,
    limits: Sequence[Limit],
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    rounds: int,
) -> Row:
    """Times the limits' probes, an op and TensorFlow's formulation in turn; prints the row."""
    ours()
    theirs()
    calls = (ours, theirs, *(limit.probe for limit in limits))
    times = np.array([[timed(call) for call in calls] for _ in range(rounds)])
    times[:, 2:] *= np.array([limit.factor for limit in limits])[:, np.newaxis]
    median = np.median(times[:, :, 0], axis=0)
    ratios = np.median(times / times[:, :1], axis=0)
    shares = tuple(
        Share(limit.name, float(median[k]), float(ratios[k, 0]), float(ratios[k, 1]))
        for k, limit in enumerate(limits, start=2)
    )
    row = Row(
        op, case, float(median[0]), shares, float(median[1]), float(ratios[1, 0]),
        float(ratios[1, 1]),
    )  # fmt: skip
    print(
        f"{op:11s} {case:42s} {row.seconds * 1e3:7.1f}  {row.tensorflow_seconds * 1e3:7.1f} "
        f"{row.speedup:5.1f} {row.speedup_cpu:5.1f}  "
        + ", ".join(
            f"{s.limit} {s.limit_seconds * 1e3:.1f}: {s.share:.0%} {s.share_cpu:.0%}"
            for s in shares
        ),
        flush=True,
    )
    return row
