"""`--mode=train`: trains, evaluates and writes checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable

from dataset.transforms import unknown_transform_message
from training import phases, precision
from training.breakdown import LAST, BreakdownStep
from training.build import build
from training.checkpoint import compatibility, restore
from training.checkpoint.reader import Reader
from training.checkpoint.saver import Saver
from training.checkpoint.state import State
from training.config import Config
from training.data import Data
from training.dense_phases import gpu_kernels
from training.evaluation import evaluator
from training.loop import GUARD_INTERVAL, Loop, Services, StartPoint, Trainee, last_step
from training.optimizers import OPTIMIZERS
from training.runtime import environment
from training.runtime.console import warn
from training.runtime.control_votes import ControlVotes
from training.runtime.errors import EXIT_INTERRUPTED, EXIT_OK, UserError
from training.runtime.monitor import Monitor
from training.runtime.process_group import ProcessGroup
from training.step import Forward, StepParts, TrainStep
from training.telemetry.journal import Journal
from training.telemetry.profiling import StepProfile
from training.telemetry.sinks import open_training_journal


def run(config: Config, cluster: ProcessGroup, watch: Monitor) -> int:
    """Runs the mode; returns the exit code.

    Raises:
        UserError: the configuration, the data or the machine does not allow the run.
        DivergedError: the loss became NaN or infinite.
    """
    # First, so that a wrong schedule is reported before any data is loaded.
    rates = config.training.learning_rates()
    parts = build(config, cluster)
    data = parts.data
    _check_reached(config, data.steps_per_epoch)
    scale = precision.loss_scale(
        config.speed, parts.dtype, skip_nonfinite=config.output.nan_policy == "skip"
    )
    optimizer = OPTIMIZERS[config.training.optimizer](
        parts.dense_model.trainable_variables, config.training.optimizer_values
    )
    journal, folder = open_training_journal(config, cluster)
    embedding_lr = config.training.embedding_lr
    make_step = TrainStep
    if config.output.step_breakdown:
        make_step = functools.partial(BreakdownStep, functools.partial(journal.emit, "breakdown"))
    device = phases.accelerator()
    step_parts = StepParts(
        parts.dense_model,
        parts.embedding.for_training(),
        optimizer,
        cluster,
        scale,
        update_embedding=config.model.ablation != "frozen_embeddings",
        embedding_rate=1.0 if embedding_lr is None else embedding_lr / rates.base_rate,
        kernels=gpu_kernels(parts.dense_model, device),
    )
    step = make_step(step_parts, overlap=config.speed.overlap, device=device)
    forward = Forward(parts.dense_model, parts.embedding)
    evaluate = evaluator(config.evaluation, forward, data, cluster, journal)
    state = State(parts.dense_model, optimizer, scale, parts.embedding, cluster)
    # Only on rank 0, because all ranks do the same work.
    profiled = config.output.profiled_steps if cluster.rank == 0 else None
    profile = StepProfile(profiled, folder)
    saver = None
    if data.facts["effective_transform"] is None:
        unknown = unknown_transform_message(config.data.data_dir or "")
        journal.emit("message", text=f"warning: {unknown}")
    try:
        if config.checkpoint.checkpoint_dir is not None:
            saver = _saver(config, config.checkpoint.checkpoint_dir, cluster, state, data, journal)
        start = _begin(config, cluster, data, state, saver, journal)
        if saver is not None:
            saver.check_names(start.step, last_step(config, data.steps_per_epoch))
        _report_unreached(config, data.steps_per_epoch, start.step, step, journal)
        minutes = config.checkpoint.interval.minutes if saver is not None else None
        votes = ControlVotes(
            minutes, cluster.rank, read_every=GUARD_INTERVAL if step.votes_on_device else 1
        )
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
    facts = {"flags": config.flags(), "data": data.facts, "versions": environment.versions()}
    return Saver(
        folder, cluster, state, facts, keep=checkpoint.keep,
        interval=checkpoint.interval.steps, timeout=config.output.stall_timeout, journal=journal,
    )  # fmt: skip


def _check_reached(config: Config, steps_per_epoch: int) -> None:
    """Raises UserError if the run ends before the steps to profile or to break down."""
    total, output = last_step(config, steps_per_epoch), config.output
    profiled = output.profiled_steps
    if profiled is not None and profiled[0] > total:
        problem = f"the run has only {total} steps"
        raise UserError.of_flag("profile_steps", output.profile_steps, problem, bound=total)
    if output.step_breakdown and total < LAST:
        problem = f"expected a run of at least {LAST} steps, found {total}"
        raise UserError.of_flag("step_breakdown", "true", problem, bound=LAST)


def _report_unreached(
    config: Config, steps_per_epoch: int, start: int, step: TrainStep, journal: Journal
) -> None:
    """Warns if a resumed run has too few steps left for a profile or a breakdown.

    This is not an error, so that the same command can resume and finish its run.
    """
    output = config.output
    left = max(0, last_step(config, steps_per_epoch) - start)
    profiled = output.profiled_steps
    if profiled is not None and profiled[1] <= start:
        text = f"no profile: the run resumes after step {start}, past --profile_steps="
        journal.emit("message", text=f"warning: {text}{output.profile_steps}")
    if isinstance(step, BreakdownStep) and left < LAST:
        text = f"no breakdown: --step_breakdown takes {LAST} steps, {left} are left"
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
    """Loads the weights that the run starts from; returns its start point.

    The first available of:
    1. the newest complete checkpoint in --checkpoint_dir; the run continues after its step
    2. --restore; the run starts at step 0
    3. the initial weights.
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
                journal.emit("message", text=f"changed since the checkpoint: {line}")
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
    """Returns a function that reports a damaged checkpoint, on the rank that finds it."""

    def report(text: str) -> None:
        warn(text)
        journal.emit("message", text=text)

    return report
