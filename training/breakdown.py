"""Times the phases of a training step by running them one at a time.

It runs the phases of `training.step.train_phases`, so results do not change. Phases do not overlap
here: each waits for the device. NVTX ranges are the same as in a fused step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Callable

import tensorflow as tf

from ops.nvtx import ranges
from training.runtime.errors import UserError
from training.step import Batch, StepParts, TrainStep

# Numbers of steps within the run. The first four trace both forms. Then three kinds of step
# alternate: one plans the next batch, one is fused and timed, one runs phase by phase. Alternating
# them makes both timings see the same changes in the machine's speed.
TRACING = (3, 4)
FUSED, STAGED = range(6, 26, 3), range(7, 26, 3)
LAST = STAGED[-1]


class BreakdownStep(TrainStep):
    """A `TrainStep` that runs some steps phase by phase.

    Args:
        report: called after step `LAST` with phases=[{"name", "milliseconds"}, ...], the means over
            the staged steps; step_milliseconds, their sum; whole_milliseconds, the mean over the
            fused steps.
        parts, overlap, device: see `TrainStep`.

    Raises:
        UserError: the embedding backend cannot run its phases separately.
    """

    def __init__(
        self,
        report: Callable[..., None],
        parts: StepParts,
        *,
        overlap: bool = True,
        device: str | None = None,
    ):
        super().__init__(parts, overlap=overlap, device=device)
        if not parts.embedding.separable:
            raise UserError(
                "--step_breakdown needs --embedding_backend=native; profile SOK with "
                "--profile_steps",
                flag="step_breakdown",
            )
        self._report = report
        self._number = 0
        self._seconds: dict[str, float] = {}
        self._fused_seconds = 0.0
        self._entered = self._left = time.perf_counter()
        # The number of rows in a plan varies: the second call relaxes the shapes.
        self._functions = [
            (phase, tf.function(phase.run_on_device, reduce_retracing=True, autograph=False))
            for phase in (*self._phases.preparation, *self._phases.step)
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
        """Excludes seconds spent outside steps from the timings."""
        self._left += seconds

    def disable(self) -> None:
        """Runs all further steps fused, without timing them."""
        self._number = LAST

    def _since_last(self, number):
        """Adds the time since the last step: the loop, and waiting for the batch."""
        now = time.perf_counter()
        if number in FUSED:
            self._fused_seconds += now - self._left
        if number in STAGED:
            self._count("read and loop", now - self._left)
        self._entered = now

    def _staged(self, batch, learning_rate, votes):
        values = {**batch, **self._scalars(learning_rate, votes)}
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
    # On CPUs, functions return after their work is done.
    if tf.config.list_logical_devices("GPU"):
        tf.test.experimental.sync_devices()
