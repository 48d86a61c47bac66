"""`--mode=train`: trains and evaluates, and writes checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable

from dataset.transforms import not_recorded
from training import precision
from training.breakdown import LAST, BreakdownStep
from training.build import build
from training.checkpoint import compatibility, restore
from training.checkpoint.reader import Reader
from training.checkpoint.saver import Saver, facts
from training.checkpoint.state import State
from training.config import Config
from training.data import Data
from training.evaluation import evaluator
from training.loop import Loop, Services, StartPoint, Trainee, last_step
from training.optimizers import OPTIMIZERS
from training.runtime.console import warn
from training.runtime.control_votes import ControlVotes
from training.runtime.errors import EXIT_INTERRUPTED, EXIT_OK, UserError
from training.runtime.process_group import ProcessGroup
from training.runtime.watched import Watch
from training.step import Forward, StepParts, TrainStep
from training.telemetry.journal import Journal
from training.telemetry.profiling import StepProfile
from training.telemetry.sinks import open_training_journal


def run(config: Config, cluster: ProcessGroup, watch: Watch) -> int:
    """Runs the mode; returns the exit code.

    Raises:
        UserError: the configuration, the data or the machine do not allow it.
        DivergedError: the loss became NaN or infinite.
    """
    # What is wrong with the learning rate is reported before anything is loaded.
    rates = config.training.learning_rates()
    parts = build(config, cluster)
    data = parts.data
    _check_reached(config, data.steps_per_epoch)
    scale = precision.loss_scale(
        config.speed, parts.dtype, skip_nonfinite=config.output.nan_policy == "skip"
    )
    optimizer = OPTIMIZERS[config.training.optimizer](parts.dense_model.trainable_variables)
    journal, folder = open_training_journal(config, cluster)
    embedding_lr = config.training.embedding_lr
    make_step = TrainStep
    if config.output.step_breakdown:
        make_step = functools.partial(BreakdownStep, functools.partial(journal.emit, "breakdown"))
    step_parts = StepParts(
        parts.dense_model,
        parts.embedding,
        optimizer,
        cluster,
        scale,
        update_embedding=config.model.ablation != "frozen_embeddings",
        embedding_rate=1.0 if embedding_lr is None else embedding_lr / rates.base_rate,
    )
    step = make_step(step_parts, overlap=config.speed.overlap)
    forward = Forward(parts.dense_model, parts.embedding)
    evaluate = evaluator(config.evaluation, forward, data, cluster, journal)
    state = State(parts.dense_model, optimizer, scale, parts.embedding, cluster)
    # Of rank 0 alone: the ranks do the same things.
    profiled = config.output.profiled_steps if cluster.rank == 0 else None
    profile = StepProfile(profiled, folder)
    saver = None
    if data.facts["effective_transform"] is None:
        unknown = not_recorded(config.data.data_dir or "")
        journal.emit("message", text=f"warning: {unknown}")
    try:
        if config.checkpoint.checkpoint_dir is not None:
            saver = _saver(config, config.checkpoint.checkpoint_dir, cluster, state, data, journal)
        start = _begin(config, cluster, data, state, saver, journal)
        if saver is not None:
            saver.check_names(start.step, last_step(config, data.steps_per_epoch))
        _report_unreached(config, data.steps_per_epoch, start.step, step, journal)
        minutes = config.checkpoint.interval.minutes if saver is not None else None
        votes = ControlVotes(minutes, cluster.rank)
        trainee = Trainee(data, step, scale, rates, evaluate)
        services = Services(journal, votes, profile, watch, saver)
        result = Loop(config, cluster, trainee, services, start).run()
    finally:
        profile.close()
        if saver is not None:
            saver.close()
        journal.close()
    return EXIT_INTERRUPTED if result["stopped_by"] == "signal" else EXIT_OK


def _saver(
    config: Config,
    folder: str,
    cluster: ProcessGroup,
    state: State,
    data: Data,
    journal: Journal,
) -> Saver:
    checkpoint = config.checkpoint
    return Saver(
        folder, cluster, state, facts(config.flags(), data.facts), keep=checkpoint.keep,
        interval=checkpoint.interval.steps, timeout=config.output.stall_timeout, journal=journal,
    )  # fmt: skip


def _check_reached(config: Config, steps_per_epoch: int) -> None:
    """Raises UserError if the run ends before the steps that are to be measured."""
    total, output = last_step(config, steps_per_epoch), config.output
    profiled = output.profiled_steps
    if profiled is not None and profiled[0] > total:
        raise UserError(f"--profile_steps={output.profile_steps}: the run has {total} steps")
    if output.step_breakdown and total < LAST:
        raise UserError(f"--step_breakdown takes {LAST} steps, the run has {total}")


def _report_unreached(
    config: Config, steps_per_epoch: int, start: int, step: TrainStep, journal: Journal
) -> None:
    """Reports what a run that goes on after a checkpoint has not enough steps left to measure.

    No error: the same command has to finish what it began.
    """
    output = config.output
    left = max(0, last_step(config, steps_per_epoch) - start)
    profiled = output.profiled_steps
    if profiled is not None and profiled[1] <= start:
        text = f"no profile: step {start}, after which the run goes on, is beyond --profile_steps="
        journal.emit("message", text=f"warning: {text}{output.profile_steps}")
    if isinstance(step, BreakdownStep) and left < LAST:
        text = f"no breakdown: --step_breakdown takes {LAST} steps, and {left} are left"
        journal.emit("message", text=f"warning: {text} after step {start}")
        step.disable()


def _begin(
    config: Config,
    cluster: ProcessGroup,
    data: Data,
    state: State,
    saver: Saver | None,
    journal: Journal,
) -> StartPoint:
    """Loads what the run begins with; returns where it starts.

    The first of: the newest whole checkpoint in --checkpoint_dir, with its place in the data;
    --restore, from step 0; the initial weights.
    """
    checkpoint, flags, report = config.checkpoint, config.flags(), _damage_report(journal)
    if saver is not None and checkpoint.checkpoint_dir is not None:
        reader = restore.latest_complete(checkpoint.checkpoint_dir, cluster, report)
        if reader is not None:
            changed = compatibility.check(reader, flags, data.facts, data.vocab_sizes, resume=True)
            restore.load(reader, state, training=True)
            step = reader.manifest["step"]
            saver.resumed(step)
            journal.emit("message", text=f"resuming after step {step} from {reader.folder}")
            _report_unchecked(reader, data, journal)
            for line in changed:
                journal.emit("message", text=f"since then changed: {line}")
            return StartPoint(step, reader.manifest["evaluations"])
    if checkpoint.restore is not None:
        reader = restore.find_checkpoint(checkpoint, cluster, report)
        compatibility.check(reader, flags, data.facts, data.vocab_sizes, resume=False)
        restore.load(reader, state, training=True)
        step = reader.manifest["step"]
        journal.emit("message", text=f"weights of step {step} from {reader.folder}")
        _report_unchecked(reader, data, journal)
    return StartPoint()


def _report_unchecked(reader: Reader, data: Data, journal: Journal) -> None:
    line = compatibility.unchecked(reader, data.facts)
    if line is not None:
        journal.emit("message", text=f"warning: {line}")


def _damage_report(journal: Journal) -> Callable[[str], None]:
    """Returns what reports a damaged checkpoint, on the rank that has found it."""

    def report(text: str) -> None:
        warn(text)
        journal.emit("message", text=text)

    return report
