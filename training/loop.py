"""The training loop: steps, evaluations and checkpoints in the order in which they happen."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storage.nonfinite import finite_or_none
from training.config import Config
from training.data import Data, step_limit, with_next
from training.evaluation import Evaluator, ScoresNotFiniteError
from training.evaluation_schedule import EvaluationSchedule
from training.metrics.auc_sanity import AucSanityCheck
from training.precision import LossScale
from training.runtime import environment
from training.runtime.control_votes import ControlVotes
from training.runtime.errors import DivergedError
from training.runtime.monitor import Monitor, NullMonitor
from training.runtime.process_group import ProcessGroup
from training.schedule import LearningRateSchedule
from training.telemetry.journal import Journal
from training.telemetry.profiling import StepProfile
from training.telemetry.step_rate import StepRate

if TYPE_CHECKING:
    from training.checkpoint.saver import Saver
    from training.step import TrainStep

# Steps between checks of the loss. Each check waits for the device; all ranks check together.
GUARD_INTERVAL = 20
# After this many skipped steps in a row, the weights themselves must be invalid.
_MOST_SKIPS = 100
# Seconds between updates of the progress bar.
_REPORT_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Trainee:
    """The data, model and schedule that a loop trains.

    Attributes:
        data: the batches.
        step: a training step.
        scale: the loss scale of the step.
        schedule: the learning rate of each step.
        evaluate: scores the test data; None without test data.
    """

    data: Data
    step: TrainStep
    scale: LossScale
    schedule: LearningRateSchedule
    evaluate: Evaluator | None = None


@dataclasses.dataclass(frozen=True)
class Services:
    """The services that a loop calls during training.

    Attributes:
        journal: records events.
        votes: collects requests to stop or to write a checkpoint.
        profile: starts and stops TensorFlow's profiler.
        watch: monitors progress.
        saver: writes checkpoints; None: no checkpoints.
    """

    journal: Journal
    votes: ControlVotes
    profile: StepProfile = dataclasses.field(default_factory=lambda: StepProfile(None, ""))
    watch: Monitor = dataclasses.field(default_factory=NullMonitor)
    saver: Saver | None = None


@dataclasses.dataclass(frozen=True)
class StartPoint:
    """The step at which a loop starts.

    Attributes:
        step: step of the checkpoint that the run resumes, or 0.
        evaluations: records of the evaluations up to this step.
    """

    step: int = 0
    evaluations: Sequence[Mapping[str, Any]] = ()


class Loop:
    """Trains, evaluates and writes checkpoints.

    Stops at a request to stop, the AUC threshold, the step limit or the last epoch, whichever comes
    first.

    Args:
        config: the configuration of the job.
        cluster: the ranks.
        trainee: data, model and schedule.
        services: journal, votes, profiler, watchdog and checkpoints.
        start: the step to start at; default: 0.
    """

    def __init__(
        self,
        config: Config,
        cluster: ProcessGroup,
        trainee: Trainee,
        services: Services,
        start: StartPoint | None = None,
    ) -> None:
        start = start or StartPoint()
        self._config = config
        self._cluster = cluster
        self._data, self._step, self._scale = trainee.data, trainee.step, trainee.scale
        self._schedule, self._evaluator = trainee.schedule, trainee.evaluate
        self._journal, self._votes = services.journal, services.votes
        self._profile, self._watch, self._saver = services.profile, services.watch, services.saver
        self._total = last_step(config, self._data.steps_per_epoch)
        limit = step_limit(config.data, config.training)
        self._stops_early = limit is not None and limit == self._total
        self._start = start.step
        self._evaluations = EvaluationSchedule(
            config.evaluation, self._data.steps_per_epoch, self._total, start.evaluations,
            has_test_data=self._evaluator is not None,
        )  # fmt: skip
        folder = config.data.data_dir or ""
        self._sanity = AucSanityCheck(self._schedule, folder, self._journal)
        self._evaluating_seconds = 0.0
        self._rate = StepRate(self._start, config.training.batch_size)
        self._next_report = 0.0

    def run(self) -> dict[str, Any]:
        """Runs all steps; returns the content of result.json.

        Raises:
            DivergedError: the loss is NaN or infinite.
            UserError: a checkpoint cannot be written.
        """
        begin = time.perf_counter()
        self._journal.emit("config", **self._config_event())
        with self._votes.signals():
            done, stopped_by = self._train()
            scores = self._evaluator is not None and stopped_by != "signal"
            if scores and not self._evaluations.made_after(done):
                # Training has already stopped, so passing the threshold now is not the reason.
                stopped_by = "signal" if self._evaluate(done) == "signal" else stopped_by
            self._save(done, wait=True)
        self._step.wait()
        result = self._result(done, stopped_by, begin, time.perf_counter())
        self._journal.emit("end", **result)
        return result

    def _train(self) -> tuple[int, str]:
        """Runs the steps; returns (last step, reason for stopping)."""
        done, ended = self._start, "early_stop" if self._stops_early else "epochs"
        per_epoch = self._data.steps_per_epoch
        if self._evaluations.passed_after(done):
            return done, "auc_threshold"
        # A run that was stopped before or during an evaluation makes that evaluation first.
        if self._evaluations.due_after(done) and (ended_by := self._evaluate(done)):
            return done, ended_by
        while done < self._total:
            epoch, first = divmod(done, per_epoch)
            self._journal.emit("epoch", epoch=epoch, step=done)
            for batch, following in with_next(self._data.train(epoch, first)):
                done += 1
                if self._saver is not None:
                    # Only the disk of this rank may be slow.
                    wait = functools.partial(self._watch.pause, alone=True)
                    self._saver.before_step(self._step.plan(batch), wait)
                if done > self._start + 1:
                    self._watch.heartbeat(f"step {done}")
                self._profile.before(done)
                vote = self._votes.local_vote()
                _, votes = self._step(batch, self._schedule(done), following, vote)
                stop, checkpoint = self._votes.global_vote(votes)
                self._after_step(done, epoch)
                if self._evaluations.due_after(done) and (ended_by := self._evaluate(done)):
                    return done, ended_by
                if stop:
                    return done, "signal"
                if checkpoint or (self._saver is not None and self._saver.due(done)):
                    self._save(done, wait=False)
                if done == self._total:
                    break
        return done, ended

    def _after_step(self, done: int, epoch: int) -> None:
        if self._profile.after(done):
            self._journal.emit("message", text=f"wrote the profile of the steps up to {done}")
        if done == self._start + 1:
            self._step.wait()
            self._rate.start_clock()
        last = done == self._total
        if done % GUARD_INTERVAL == 0 or last:
            self._guard(done)
        if self._saver is not None:
            self._saver.check()
        if self._cluster.rank == 0 and (last or self._report_due(done)):
            self._report(done, epoch)
            self._next_report = time.perf_counter() + _REPORT_SECONDS

    def _report_due(self, done: int) -> bool:
        interval = self._config.output.print_interval
        if interval is not None:
            return done % interval == 0
        return done > self._start + 1 and time.perf_counter() >= self._next_report

    def _guard(self, done: int) -> None:
        """Raises DivergedError if the loss is not finite or too many steps were skipped."""
        skipped, in_a_row = self._scale.skipped() if self._scale.skips else (0, 0)
        loss = self._step.last_loss()
        if self._scale.skips and in_a_row < _MOST_SKIPS:
            return
        if math.isfinite(loss) and not self._scale.skips:
            return
        problem = f"the loss is {loss}"
        if self._scale.skips:
            problem = (
                f"the last {in_a_row} steps were not finite and were skipped ({skipped} in all)"
            )
        raise self._diverged(problem, done)

    def _diverged(self, problem: str, done: int) -> DivergedError:
        good = None if self._saver is None else self._saver.newest()
        return DivergedError(
            f"{problem} at step {done} (checked every {GUARD_INTERVAL} steps), learning rate "
            f"{self._schedule(done):.6g}, loss scale {self._scale.value():g}, last good "
            f"checkpoint: {good or 'none'}; lower --lr, or raise --warmup_steps"
        )

    def _save(self, done: int, wait: bool) -> None:
        """Starts writing a checkpoint; if `wait`, returns when it is complete."""
        if self._saver is None:
            return
        self._guard(done)
        begin = time.perf_counter()
        self._watch.pause()
        self._step.wait()
        if not self._step.finite():
            raise self._diverged("the weights are not finite", done)
        self._saver.begin(done, done // self._data.steps_per_epoch, self._evaluations.records)
        if wait:
            self._saver.finish()
        self._watch.heartbeat(f"step {done + 1}")
        self._stop_clocks(time.perf_counter() - begin)
        self._votes.checkpointed()

    def _report(self, done: int, epoch: int) -> None:
        loss = self._step.mean_loss()
        seconds_per_step, rate = self._rate.since_last_call(done)
        extra: dict[str, Any] = {}
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

    def _evaluate(self, done: int) -> str | None:
        """Evaluates; returns "auc_threshold" or "signal" if that ends training, else None."""
        if self._evaluator is None:
            raise ValueError("expected test data, found none")
        self._step.wait()
        begin = time.perf_counter()
        self._watch.pause()
        try:
            result = self._evaluator(
                lambda: self._watch.heartbeat(f"the evaluation after step {done}"),
                lambda: self._votes.stopping,
            )
        except ScoresNotFiniteError as error:
            raise self._diverged(str(error), done) from error
        self._watch.pause()
        seconds = time.perf_counter() - begin
        self._evaluating_seconds += seconds
        self._stop_clocks(seconds)
        if result is None:
            return "signal"
        # The AUC is undefined if all labels are equal.
        record: dict[str, Any] = {
            "step": done,
            "auc": finite_or_none(result.auc),
            "log_loss": finite_or_none(result.log_loss),
            "samples": result.samples,
            "seconds": seconds,
        }
        self._evaluations.records.append(record)
        self._journal.emit("evaluation", **record)
        self._journal.emit("memory", step=done, **environment.peak_memory())
        loss = self._step.last_loss() if done > self._start else None
        self._sanity.check(result, done, done == self._total, loss)
        return "auc_threshold" if self._evaluations.passes(result.auc) else None

    def _stop_clocks(self, seconds: float) -> None:
        """Excludes time spent outside steps from the step timings."""
        self._rate.pause(seconds)
        self._step.pause(seconds)

    def _config_event(self) -> dict[str, Any]:
        return {
            "flags": self._config.flags(),
            "versions": environment.versions(),
            "data": self._data.facts,
            "ranks": self._cluster.size,
            "steps": self._total,
            "steps_per_epoch": self._data.steps_per_epoch,
            "schedule": dataclasses.asdict(self._schedule),
            "resumed_from_step": self._start or None,
        }

    def _result(self, done: int, stopped_by: str, begin: float, end: float) -> dict[str, Any]:
        seconds = end - begin
        per_step, rate = self._rate.overall(done, end)
        result = {
            **self._evaluations.summary(),
            "attainable_auc": self._data.attainable_auc,
            "loss": self._step.last_loss() if done > self._start else None,
            "steps": done,
            "resumed_from_step": self._start or None,
            "samples": done * self._config.training.batch_size,
            "stopped_by": stopped_by,
            "evaluation_interval": self._evaluations.interval,
            "samples_per_second": rate,
            "ms_per_iteration": per_step and 1000 * per_step,
            "training_seconds": seconds - self._evaluating_seconds,
            "evaluating_seconds": self._evaluating_seconds,
            "total_seconds": seconds,
            "ranks": self._cluster.size,
            "flags": self._config.flags(),
            "versions": environment.versions(),
            "data": self._data.facts,
        }
        if self._scale.skips:
            result["skipped_steps"] = self._scale.skipped()[0]
        return result


def last_step(config: Config, steps_per_epoch: int) -> int:
    """Returns the number of the last step of a run that nothing ends early."""
    total = config.training.epochs * steps_per_epoch
    limit = step_limit(config.data, config.training)
    return total if limit is None else min(total, limit)
