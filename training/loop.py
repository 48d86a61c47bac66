"""The training loop: one flat pass over steps, in the order in which things happen."""

import math
import time

from training import environment
from training.auc import ScoresNotFiniteError
from training.errors import DivergedError
from training.evaluation import evaluate
from training.flags import chosen

# Steps between looks at the loss: every look waits for the device, and all ranks look together.
GUARD_INTERVAL = 20
# Seconds between the events that move the progress bar.
_REPORT_SECONDS = 0.5


class Loop:
    """Trains, evaluates, stops.

    Stops at the first of: the AUC threshold, the step limit, the end of the epochs.

    Args:
        flags: the parsed flags.
        cluster: the ranks (`training.cluster`).
        data: a `training.job.Data`.
        step: a `training.step.TrainStep`.
        forward: a `training.step.Forward`.
        schedule: a `training.schedule.LearningRateSchedule`.
        journal: a `training.journal.Journal`.
        watchdog: a `training.watchdog.Watchdog`, or None for a single rank.
        early_stop: number of steps after which to stop, or None.
    """

    def __init__(
        self, flags, cluster, data, step, forward, schedule, journal, watchdog, early_stop=None
    ):
        self._flags = flags
        self._cluster = cluster
        self._data = data
        self._step = step
        self._forward = forward
        self._schedule = schedule
        self._journal = journal
        self._watchdog = watchdog
        total = flags.epochs * data.steps_per_epoch
        self._total = total if early_stop is None else min(total, early_stop)
        self._stops_early = early_stop is not None and early_stop <= total
        self._interval = self._evaluation_interval()
        self._evaluations = []
        self._evaluating_seconds = 0.0
        # The clock of the steady rate starts after the first step, which traces and compiles.
        self._steady_begin = None
        self._steady_paused = 0.0
        self._next_report = 0.0
        self._reported = (0, 0.0)

    def run(self):
        """Runs to the end; returns the content of result.json.

        Raises:
            DivergedError: the loss is NaN or infinite.
        """
        begin = time.perf_counter()
        self._journal.emit("config", **self._config())
        done, stopped_by = 0, "early_stop" if self._stops_early else "epochs"
        for epoch in range(self._flags.epochs):
            if done == self._total:
                break
            for batch, following in _with_next(self._data.train(epoch)):
                done += 1
                if done > 1:
                    self._beat(f"step {done}")
                self._step(batch, self._schedule(done), following)
                self._after_step(done, epoch)
                if done == self._total:
                    break
                if self._interval and done % self._interval == 0 and self._evaluate(done):
                    stopped_by = "auc_threshold"
                    break
            if stopped_by == "auc_threshold":
                break
        if self._data.test is not None and stopped_by != "auc_threshold":
            self._evaluate(done)
        self._step.wait()
        end = time.perf_counter()
        result = self._result(done, stopped_by, begin, end)
        self._journal.emit("end", **result)
        return result

    def _after_step(self, done, epoch):
        if done == 1:
            self._step.wait()
            self._steady_begin = time.perf_counter()
        last = done == self._total
        if done % GUARD_INTERVAL == 0 or last:
            self._guard(done)
        if self._cluster.rank == 0 and (last or self._report_due(done)):
            self._report(done, epoch)
            self._next_report = time.perf_counter() + _REPORT_SECONDS

    def _report_due(self, done):
        if self._flags.print_interval is not None:
            return done % self._flags.print_interval == 0
        return done > 1 and time.perf_counter() >= self._next_report

    def _guard(self, done):
        loss = self._step.last_loss()
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at step {done} (looked at every {GUARD_INTERVAL} steps), "
                f"learning rate {self._schedule(done):.6g}: lower --lr, or lengthen --warmup_steps"
            )

    def _report(self, done, epoch):
        loss = self._step.mean_loss()
        steady = time.perf_counter() - self._steady_begin - self._steady_paused
        # The first step traces and compiles: it is on no clock.
        steps = done - max(1, self._reported[0])
        seconds_per_step = (steady - self._reported[1]) / steps if steps else 0.0
        self._reported = (done, steady)
        rate = self._flags.global_batch_size / seconds_per_step if steps else 0.0
        self._journal.emit(
            "step",
            step=done,
            epoch=epoch,
            loss=loss,
            learning_rate=self._schedule(done),
            seconds_per_step=seconds_per_step,
            samples_per_second=rate,
        )

    def _evaluate(self, done):
        """Evaluates; returns whether the AUC threshold is passed."""
        self._step.wait()
        begin = time.perf_counter()
        self._pause_watch()
        try:
            result = evaluate(
                self._forward, self._data.test(), self._cluster,
                beat=lambda: self._beat(f"the evaluation after step {done}"),
            )  # fmt: skip
        except ScoresNotFiniteError as error:
            raise DivergedError(f"the evaluation after step {done}: {error}") from error
        self._pause_watch()
        seconds = time.perf_counter() - begin
        self._evaluating_seconds += seconds
        self._steady_paused += seconds
        self._evaluations.append(result)
        self._journal.emit(
            "evaluation", step=done, auc=result.auc, log_loss=result.log_loss,
            samples=result.samples, seconds=seconds,
        )  # fmt: skip
        return result.auc > self._flags.auc_threshold

    def _evaluation_interval(self):
        flags = self._flags
        if flags.eval_in_last or self._data.test is None:
            return None
        if flags.eval_interval is not None:
            return flags.eval_interval
        return max(1, self._data.steps_per_epoch // flags.evals_per_epoch)

    def _beat(self, doing):
        if self._watchdog is not None:
            self._watchdog.beat(doing)

    def _pause_watch(self):
        if self._watchdog is not None:
            self._watchdog.pause()

    def _config(self):
        return {
            "flags": chosen(),
            "versions": environment.versions(),
            "data": self._data.facts,
            "ranks": self._cluster.size,
            "steps": self._total,
            "steps_per_epoch": self._data.steps_per_epoch,
        }

    def _result(self, done, stopped_by, begin, end):
        evaluations = self._evaluations
        last = evaluations[-1] if evaluations else None
        seconds = end - begin
        steady = end - self._steady_begin - self._steady_paused
        per_step = steady / max(1, done - 1)
        batch = self._flags.global_batch_size
        return {
            "auc": last and last.auc,
            "best_auc": last and max(e.auc for e in evaluations),
            "log_loss": last and last.log_loss,
            "attainable_auc": self._data.attainable_auc,
            "loss": self._step.last_loss(),
            "steps": done,
            "samples": done * batch,
            "stopped_by": stopped_by,
            "evaluation_interval": self._interval,
            "samples_per_second": batch / per_step if done > 1 else math.nan,
            "ms_per_iteration": 1000 * per_step if done > 1 else math.nan,
            "training_seconds": seconds - self._evaluating_seconds,
            "evaluating_seconds": self._evaluating_seconds,
            "total_seconds": seconds,
            "ranks": self._cluster.size,
            "flags": chosen(),
            "versions": environment.versions(),
            "data": self._data.facts,
        }


def _with_next(batches):
    """Yields (batch, the batch after it or None)."""
    iterator = iter(batches)
    batch = next(iterator, None)
    while batch is not None:
        following = next(iterator, None)
        yield batch, following
        batch = following
