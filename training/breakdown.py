"""Times the phases of a training step, each run by itself.

The phases are those of `training.step.train_phases`, so the results are the same; but phases do not
overlap, and the device is waited for after each. NVTX ranges are those of whole steps.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Callable

import tensorflow as tf

from ops.nvtx import ranges
from training.runtime.errors import UserError
from training.step import Batch, StepParts, TrainStep, train_phases

# Steps by number within the run. The first four trace both forms. Then, in turn: one that plans the
# next batch, a fused one that is timed, one phase by phase. So a machine that gets slower or faster
# meanwhile does so for both.
TRACING = (3, 4)
FUSED, STAGED = range(6, 26, 3), range(7, 26, 3)
LAST = STAGED[-1]


class BreakdownStep(TrainStep):
    """A `TrainStep` that runs some steps phase by phase.

    Args:
        report: called after step `LAST` with phases=[{"name", "milliseconds"}, ...],
            step_milliseconds and whole_milliseconds: means over the staged steps, their sum, and
            the mean of the fused ones.
        parts, overlap: as for `TrainStep`.

    Raises:
        UserError: the phases cannot run each by itself.
    """

    def __init__(self, report: Callable[..., None], parts: StepParts, *, overlap: bool = True):
        super().__init__(parts, overlap=overlap)
        if not parts.embedding.separable:
            raise UserError(
                "--step_breakdown needs the native backend: with SOK profile the step by "
                "--profile_steps"
            )
        self._report = report
        self._number = 0
        self._seconds: dict[str, float] = {}
        self._fused_seconds = 0.0
        self._entered = self._left = time.perf_counter()
        # Plans differ in their rows from batch to batch: shapes are relaxed after the second.
        self._functions = [
            (phase, tf.function(phase.run_on_device, reduce_retracing=True, autograph=False))
            for phase in train_phases(parts, self._losses)
        ]

    def __call__(
        self,
        batch: Batch,
        learning_rate: float,
        following: Batch | None = None,
        votes: Sequence[float] = (0.0,),
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs one step; see `TrainStep`."""
        self._number += 1
        if self._number > LAST:
            return super().__call__(batch, learning_rate, following, votes)
        self._since_last(self._number)
        if self._number in STAGED or self._number in TRACING:
            result = self._staged(batch, learning_rate, votes)
        else:
            result = super().__call__(batch, learning_rate, following, votes)
            self.wait()
        if self._number in FUSED:
            self._fused_seconds += time.perf_counter() - self._entered
        self._left = time.perf_counter()
        if self._number == LAST:
            self._finish()
        return result

    def pause(self, seconds: float) -> None:
        """Takes seconds spent outside steps off the clock."""
        self._left += seconds

    def disable(self) -> None:
        """Runs no step phase by phase: there are not enough of them."""
        self._number = LAST

    def _since_last(self, number):
        """Counts the time since the last step: waiting for the batch, and the loop itself."""
        now = time.perf_counter()
        if number in FUSED:
            self._fused_seconds += now - self._left
        if number in STAGED:
            self._count("read and loop", now - self._left)
        self._entered = now

    def _staged(self, batch, learning_rate, votes):
        values = {
            **batch,
            "learning_rate": tf.constant(learning_rate, tf.float32),
            "local_votes": tf.constant(votes, tf.float32),
        }
        for phase, function in self._functions:
            with self._timed(phase.name):
                results = function(*(values[name] for name in phase.inputs))
            values.update(zip(phase.outputs, results))
        return values["loss"], values["votes"]

    @contextlib.contextmanager
    def _timed(self, name):
        begin = time.perf_counter()
        with ranges.span(name):
            yield
            _wait_for_device()
        if self._number in STAGED:
            self._count(name, time.perf_counter() - begin)

    def _count(self, name, seconds):
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def _finish(self):
        phases = [
            {"name": name, "milliseconds": 1000 * seconds / len(STAGED)}
            for name, seconds in self._seconds.items()
        ]
        self._report(
            phases=phases,
            step_milliseconds=sum(phase["milliseconds"] for phase in phases),
            whole_milliseconds=1000 * self._fused_seconds / len(FUSED),
        )


def _wait_for_device():
    # On CPUs a function has done its work when it returns.
    if tf.config.list_logical_devices("GPU"):
        tf.test.experimental.sync_devices()
