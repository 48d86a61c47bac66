"""The training loop: one flat pass over steps, in the order in which things happen."""

import dataclasses
import functools
import math
import time

from storage.nonfinite import finite
from training.data import with_next
from training.flags import chosen
from training.metrics.auc_sanity import AucSanityCheck
from training.metrics.exact_auc import ScoresNotFiniteError
from training.runtime import environment
from training.runtime.errors import DivergedError
from training.telemetry.profiling import StepProfile
from training.telemetry.step_rate import Pace

# Steps between looks at the loss: every look waits for the device, and all ranks look together.
GUARD_INTERVAL = 20
# So many steps left out in a row mean that the weights themselves are not finite.
_MOST_SKIPS = 100
# Seconds between the events that move the progress bar.
_REPORT_SECONDS = 0.5


class Loop:
    """Trains, evaluates, writes checkpoints, stops.

    Stops at the first of: a request to stop, the AUC threshold, the step limit, the end of the
    epochs.

    Args:
        flags: the parsed flags.
        cluster: the ranks (`training.runtime.process_group`).
        data: a `training.data.Data`.
        step: a `training.step.TrainStep`.
        evaluation: function (beat, stop) -> `training.evaluation.Evaluation` or, where a rank
            wanted to stop, None. None without test data.
        schedule: a `training.schedule.LearningRateSchedule`.
        scale: a `training.precision.LossScale`.
        journal: a `training.telemetry.journal.Journal`.
        votes: a `training.runtime.control_votes.ControlVotes`.
        profile: a `training.telemetry.profiling.StepProfile`.
        watchdog: a `training.runtime.watchdog.Watchdog`, or None for a single rank.
        saver: a `training.checkpoint.saver.Saver`, or None.
        early_stop: number of steps after which to stop, or None.
        start: the step of the checkpoint that the weights are from, or 0.
        evaluations: records of the evaluations up to there.
    """

    def __init__(
        self, flags, cluster, data, step, evaluation, schedule, scale, journal, votes, *,
        profile=None, watchdog=None, saver=None, early_stop=None, start=0, evaluations=(),
    ):  # fmt: skip
        self._flags = flags
        self._cluster = cluster
        self._data = data
        self._step = step
        self._evaluation = evaluation
        self._schedule = schedule
        self._scale = scale
        self._journal = journal
        self._votes = votes
        self._profile = profile or StepProfile(None, "")
        self._watchdog = watchdog
        self._saver = saver
        total = flags.epochs * data.steps_per_epoch
        self._total = total if early_stop is None else min(total, early_stop)
        self._stops_early = early_stop is not None and early_stop <= total
        self._start = start
        self._interval = self._evaluation_interval()
        self._evaluations = list(evaluations)
        self._sanity = AucSanityCheck(schedule, flags.data_dir, journal)
        self._evaluating_seconds = 0.0
        self._pace = Pace(start, flags.global_batch_size)
        self._next_report = 0.0

    def run(self):
        """Runs to the end; returns the content of result.json.

        Raises:
            DivergedError: the loss is NaN or infinite.
            UserError: a checkpoint cannot be written.
        """
        begin = time.perf_counter()
        self._journal.emit("config", **self._config())
        with self._votes.signals():
            done, stopped_by = self._train()
            scores = self._evaluation is not None and stopped_by != "signal"
            if scores and not self._scored(done):
                # A last evaluation that passes the threshold is no reason why training stopped.
                stopped_by = "signal" if self._evaluate(done) == "signal" else stopped_by
            self._save(done, wait=True)
        self._step.wait()
        result = self._result(done, stopped_by, begin, time.perf_counter())
        self._journal.emit("end", **result)
        return result

    def _train(self):
        """Runs the steps; returns (number of the last one, what stopped it)."""
        done, ended = self._start, "early_stop" if self._stops_early else "epochs"
        per_epoch = self._data.steps_per_epoch
        if self._passed(done):
            return done, "auc_threshold"
        # A run that was stopped in an evaluation, or just before one, makes it first.
        if self._evaluates_after(done) and (ended_by := self._evaluate(done)):
            return done, ended_by
        while done < self._total:
            epoch, first = divmod(done, per_epoch)
            self._journal.emit("epoch", epoch=epoch, step=done)
            for batch, following in with_next(self._data.train(epoch, first)):
                done += 1
                if self._saver is not None:
                    # This rank's disk alone may be slow.
                    wait = functools.partial(self._pause_watch, alone=True)
                    self._saver.before_step(self._step.plan(batch), wait)
                if done > self._start + 1:
                    self._beat(f"step {done}")
                self._profile.before(done)
                asked = self._votes.local_vote()
                _, answer = self._step(batch, self._schedule(done), following, asked)
                stop, timed = self._votes.global_vote(answer)
                self._after_step(done, epoch)
                if self._evaluates_after(done) and (ended_by := self._evaluate(done)):
                    return done, ended_by
                if stop:
                    return done, "signal"
                if timed or (self._saver is not None and self._saver.due(done)):
                    self._save(done, wait=False)
                if done == self._total:
                    break
        return done, ended

    def _after_step(self, done, epoch):
        if self._profile.after(done):
            self._journal.emit("message", text=f"profile of steps up to {done} written")
        if done == self._start + 1:
            self._step.wait()
            self._pace.first_step_is_done()
        last = done == self._total
        if done % GUARD_INTERVAL == 0 or last:
            self._guard(done)
        if self._saver is not None:
            self._saver.check()
        if self._cluster.rank == 0 and (last or self._report_due(done)):
            self._report(done, epoch)
            self._next_report = time.perf_counter() + _REPORT_SECONDS

    def _report_due(self, done):
        if self._flags.print_interval is not None:
            return done % self._flags.print_interval == 0
        return done > self._start + 1 and time.perf_counter() >= self._next_report

    def _guard(self, done):
        """Ends a run that has diverged."""
        skipped, in_a_row = self._scale.skipped() if self._scale.skips else (0, 0)
        loss = self._step.last_loss()
        if self._scale.skips and in_a_row < _MOST_SKIPS:
            return
        if math.isfinite(loss) and not self._scale.skips:
            return
        seen = f"the loss is {loss}"
        if self._scale.skips:
            seen = f"the last {in_a_row} steps were not finite and left out ({skipped} in all)"
        raise self._diverged(seen, done)

    def _diverged(self, seen, done):
        good = None if self._saver is None else self._saver.newest()
        return DivergedError(
            f"{seen} at step {done} (looked at every {GUARD_INTERVAL} steps), learning rate "
            f"{self._schedule(done):.6g}, loss scale {self._scale.value():g}; last good "
            f"checkpoint: {good or 'none'}: lower --lr, or lengthen --warmup_steps"
        )

    def _save(self, done, wait):
        """Begins a checkpoint; waits until it is whole where `wait` is set."""
        if self._saver is None:
            return
        self._guard(done)
        begin = time.perf_counter()
        self._pause_watch()
        self._step.wait()
        if not self._step.finite():
            raise self._diverged("the weights are not finite", done)
        self._saver.begin(done, done // self._data.steps_per_epoch, self._evaluations)
        if wait:
            self._saver.finish()
        self._beat(f"step {done + 1}")
        self._stop_clocks(time.perf_counter() - begin)
        self._votes.checkpointed()

    def _report(self, done, epoch):
        loss = self._step.mean_loss()
        seconds_per_step, rate = self._pace.since_last_time(done)
        extra = {}
        if self._scale.skips:
            extra["skipped_steps"] = self._scale.skipped()[0]
        if self._scale.dynamic:
            extra["loss_scale"] = self._scale.value()
        self._journal.emit(
            "step",
            step=done,
            epoch=epoch,
            loss=loss if math.isfinite(loss) else None,
            learning_rate=self._schedule(done),
            seconds_per_step=seconds_per_step,
            samples_per_second=rate,
            **extra,
        )

    def _evaluate(self, done):
        """Evaluates; returns "auc_threshold" or "signal" if that ends training, else None."""
        self._step.wait()
        begin = time.perf_counter()
        self._pause_watch()
        try:
            result = self._evaluation(
                lambda: self._beat(f"the evaluation after step {done}"),
                lambda: self._votes.stopping,
            )
        except ScoresNotFiniteError as error:
            raise self._diverged(str(error), done) from error
        self._pause_watch()
        seconds = time.perf_counter() - begin
        self._evaluating_seconds += seconds
        self._stop_clocks(seconds)
        if result is None:
            return "signal"
        # The AUC of labels of one class is not defined.
        record = finite({"step": done, "auc": result.auc, "log_loss": result.log_loss,
                         "samples": result.samples, "seconds": seconds})  # fmt: skip
        self._evaluations.append(record)
        self._journal.emit("evaluation", **record)
        self._journal.emit("memory", step=done, **environment.peak_memory())
        loss = self._step.last_loss() if done > self._start else None
        self._sanity.check(result, done, done == self._total, loss)
        return "auc_threshold" if result.auc > self._flags.auc_threshold else None

    def _scored(self, step):
        return bool(self._evaluations) and self._evaluations[-1]["step"] == step

    def _evaluates_after(self, step):
        return self._due(step) and not self._scored(step)

    def _passed(self, step):
        """Tells whether the evaluation after a step has ended training when it was made."""
        if not (self._due(step) and self._scored(step)):
            return False
        auc = self._evaluations[-1]["auc"]
        return auc is not None and auc > self._flags.auc_threshold

    def _due(self, step):
        return bool(self._interval) and 0 < step < self._total and step % self._interval == 0

    def _evaluation_interval(self):
        flags = self._flags
        if flags.eval_in_last or self._evaluation is None:
            return None
        if flags.eval_interval is not None:
            return flags.eval_interval
        return max(1, self._data.steps_per_epoch // flags.evals_per_epoch)

    def _stop_clocks(self, seconds):
        """Takes time that was not spent on steps off the clocks of steps."""
        self._pace.pause(seconds)
        self._step.pause(seconds)

    def _beat(self, doing):
        if self._watchdog is not None:
            self._watchdog.heartbeat(doing)

    def _pause_watch(self, alone=False):
        if self._watchdog is not None:
            self._watchdog.pause(alone)

    def _config(self):
        return {
            "flags": chosen(),
            "versions": environment.versions(),
            "data": self._data.facts,
            "ranks": self._cluster.size,
            "steps": self._total,
            "steps_per_epoch": self._data.steps_per_epoch,
            "schedule": dataclasses.asdict(self._schedule),
            "resumed_from_step": self._start or None,
        }

    def _result(self, done, stopped_by, begin, end):
        evaluations = self._evaluations
        last = evaluations[-1] if evaluations else {}
        seconds = end - begin
        per_step, rate = self._pace.overall(done, end)
        result = {
            "auc": last.get("auc"),
            "best_auc": max((e["auc"] for e in evaluations if e["auc"] is not None), default=None),
            "log_loss": last.get("log_loss"),
            "attainable_auc": self._data.attainable_auc,
            "loss": self._step.last_loss() if done > self._start else None,
            "steps": done,
            "resumed_from_step": self._start or None,
            "samples": done * self._flags.global_batch_size,
            "stopped_by": stopped_by,
            "evaluation_interval": self._interval,
            "samples_per_second": rate,
            "ms_per_iteration": per_step and 1000 * per_step,
            "training_seconds": seconds - self._evaluating_seconds,
            "evaluating_seconds": self._evaluating_seconds,
            "total_seconds": seconds,
            "ranks": self._cluster.size,
            "flags": chosen(),
            "versions": environment.versions(),
            "data": self._data.facts,
        }
        if self._scale.skips:
            result["skipped_steps"] = self._scale.skipped()[0]
        return result
