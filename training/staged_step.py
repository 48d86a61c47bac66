"""A training step taken apart: each phase a function of its own, timed.

The same operations in the same order as `training.step`, so the same results; but nothing of one
phase runs beside another, and the device is waited for after each. Where a tool listens each phase
is an NVTX range, as in whole steps.
"""

import contextlib
import time

import tensorflow as tf

from ops.nvtx import phases, ranges
from training.runtime.errors import UserError
from training.step import TrainStep, finite_or_zero

# Steps by number within the run. The first four trace both forms. Then, over and over: one that
# brings the next ids along, a whole one that is timed, one that is taken apart. So that a machine
# that gets slower or faster meanwhile does so for both.
TRACING = (3, 4)
WHOLE, STAGED = range(6, 26, 3), range(7, 26, 3)
LAST = STAGED[-1]


class StagedStep(TrainStep):
    """A `TrainStep` that takes some steps apart.

    Args:
        tell: called after step `LAST` with phases=[{"name", "milliseconds"}, ...],
            step_milliseconds and whole_milliseconds: means over the staged steps, their sum, and
            the mean of the whole ones.
        *arguments: those of `TrainStep`.
        **options: those of `TrainStep`.

    Raises:
        UserError: the embedding's steps cannot be taken apart.
    """

    def __init__(self, tell, *arguments, **options):
        super().__init__(*arguments, **options)
        if not self._embedding.routes_ahead:
            raise UserError(
                "--step_breakdown takes the own backend's steps apart: with SOK profile the step "
                "by --profile_steps"
            )
        self._tell = tell
        self._number = 0
        self._phases = {}
        self._whole_seconds = 0.0
        self._entered = self._left = time.perf_counter()
        self._functions = None

    def __call__(self, batch, learning_rate, following=None, votes=(0.0, 0.0)):
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
        if self._number in WHOLE:
            self._whole_seconds += time.perf_counter() - self._entered
        self._left = time.perf_counter()
        if self._number == LAST:
            self._finish()
        return result

    def pause(self, seconds):
        """Takes time off the clock, such as that of an evaluation."""
        self._left += seconds

    def leave_whole(self):
        """Takes no step apart: there are not enough of them."""
        self._number = LAST

    def _since_last(self, number):
        """Counts the time since the last step: waiting for the batch, and the loop itself."""
        now = time.perf_counter()
        if number in WHOLE:
            self._whole_seconds += now - self._left
        if number in STAGED:
            self._count("read and loop", now - self._left)
        self._entered = now

    def _staged(self, batch, learning_rate, votes):
        if self._functions is None:
            self._functions = self._make_functions()
        run = self._functions
        rate, asked = tf.constant(learning_rate, tf.float32), tf.constant(votes, tf.float32)
        with self._phase(phases.EXCHANGE_IDS):
            route = run["exchange_ids"](batch["categorical"])
        with self._phase(phases.LOOKUP):
            rows = run["rows"](route)
        with self._phase(phases.EXCHANGE_VECTORS):
            vectors = run["arrange"](route, rows)
        with self._phase(phases.DENSE):
            loss, gradients, vector_gradients = run["dense"](
                batch["dense"], vectors, batch["label"]
            )
        with self._phase(phases.AVERAGE):
            loss, heard, gradients, finite = run["average"](
                loss, gradients, vector_gradients, asked
            )
        with self._phase(phases.UPDATE_DENSE):
            scale = run["update_dense"](loss, gradients, rate, finite)
        if self._update_embedding:
            rate = self._embedding_rate * rate
            with self._phase(phases.EXCHANGE_GRADIENTS):
                returned = run["send_back"](route, vector_gradients, finite)
            with self._phase(phases.UPDATE_ROWS):
                run["apply"](route, returned, rate, 1.0 / scale)
        return loss, heard

    def _make_functions(self):
        embedding = self._embedding

        def send_back(route, gradients, finite):
            return embedding.send_back(route, finite_or_zero(gradients, finite))

        functions = {
            "exchange_ids": embedding.exchange_ids,
            "rows": embedding.rows,
            "arrange": embedding.arrange,
            "dense": self._differentiate,
            "average": self._average,
            "update_dense": self._update_dense,
            "send_back": send_back,
            "apply": embedding.apply,
        }
        # Routes differ in their rows from batch to batch: shapes are relaxed after the second.
        return {
            name: tf.function(f, reduce_retracing=True, autograph=False)
            for name, f in functions.items()
        }

    @contextlib.contextmanager
    def _phase(self, name):
        begin = time.perf_counter()
        with ranges.span(name):
            yield
            _wait_for_device()
        if self._number in STAGED:
            self._count(name, time.perf_counter() - begin)

    def _count(self, name, seconds):
        self._phases[name] = self._phases.get(name, 0.0) + seconds

    def _finish(self):
        phases = [
            {"name": name, "milliseconds": 1000 * seconds / len(STAGED)}
            for name, seconds in self._phases.items()
        ]
        self._tell(
            phases=phases,
            step_milliseconds=sum(phase["milliseconds"] for phase in phases),
            whole_milliseconds=1000 * self._whole_seconds / len(WHOLE),
        )


def _wait_for_device():
    # On CPUs a function has done its work when it returns.
    if tf.config.list_logical_devices("GPU"):
        tf.test.experimental.sync_devices()
