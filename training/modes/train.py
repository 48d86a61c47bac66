"""Runs the job that the flags describe, in one of the modes."""

import functools
import math

import tensorflow as tf

import dataset
from dataset.transforms import not_recorded
from model.embedding.backend import BackendError
from model.embedding.placement import PlacementError
from ops.loader import LibraryNotBuiltError
from ops.nvtx import ranges
from training import precision, schedule, start
from training.breakdown import LAST, BreakdownStep
from training.build import build
from training.checkpoint import compatibility, restore
from training.checkpoint.files import DamagedError
from training.checkpoint.saver import Saver, facts
from training.checkpoint.state import State
from training.data import early_stop
from training.flag_values import read_interval, read_steps
from training.flags import chosen
from training.loop import Loop
from training.modes import evaluate, export, inference_benchmark
from training.runtime.control_votes import ControlVotes
from training.runtime.errors import EXIT_INTERRUPTED, EXIT_OK, UserError
from training.start import find_checkpoint, make_evaluation, run_folder, warn
from training.step import StepParts, TrainStep
from training.telemetry.journal import Journal, JsonLines
from training.telemetry.mlperf_log import MLPerfLog
from training.telemetry.profiling import StepProfile
from training.telemetry.progress import make_progress
from training.telemetry.summary import SummaryTable
from training.telemetry.tensorboard import TensorBoard

# Of the dense part. TensorFlow's Adagrad starts its sums at 0.1, PyTorch's and ours at 0. Keras has
# epsilon under the root, where it keeps the first steps of tiny gradients small.
OPTIMIZERS = {
    "sgd": tf.keras.optimizers.SGD,
    "adagrad": lambda: tf.keras.optimizers.Adagrad(initial_accumulator_value=0.0, epsilon=1e-8),
    "adam": tf.keras.optimizers.Adam,
}


def run(flags, cluster):
    """Runs the job; returns the exit code (`training.runtime.errors`).

    Raises:
        UserError: the flags, the data or the machine do not allow it.
        DivergedError: the loss became NaN or infinite.
    """
    modes = {
        "train": _train,
        "evaluate": evaluate.run,
        "inference_benchmark": inference_benchmark.run,
    }
    if cluster.rank == 0 and (unheard := ranges.unheard()):
        warn(unheard)
    try:
        if flags.mode == "export":
            return export.run(flags, cluster)
        with start.watched(flags, cluster) as watchdog:
            return modes[flags.mode](flags, cluster, watchdog)
    except (
        dataset.DatasetError,
        PlacementError,
        LibraryNotBuiltError,
        BackendError,
        DamagedError,
    ) as error:
        raise UserError(str(error)) from error


def _train(flags, cluster, watchdog):
    # Flags first: what is wrong with them is said before anything is loaded.
    rates = schedule.from_flags(flags)
    steps, minutes = read_interval(flags.checkpoint_interval)
    profiled = read_steps(flags.profile_steps)
    parts = build(flags, cluster)
    _check_reached(flags, parts.data.steps_per_epoch, profiled)
    scale = precision.loss_scale(flags, parts.dtype)
    optimizer = OPTIMIZERS[flags.optimizer]()
    journal, folder = _journal(flags, cluster)
    make_step = TrainStep
    if flags.step_breakdown:
        make_step = functools.partial(BreakdownStep, functools.partial(journal.emit, "breakdown"))
    step_parts = StepParts(
        parts.dense_model,
        parts.embedding,
        optimizer,
        cluster,
        scale,
        update_embedding=flags.ablation != "frozen_embeddings",
        embedding_rate=(
            1.0 if flags.embedding_lr is None else flags.embedding_lr / rates.base_rate
        ),
    )
    step = make_step(step_parts, overlap=flags.overlap)
    evaluation = make_evaluation(flags, parts, cluster, journal)
    state = State(parts.dense_model, optimizer, scale, parts.embedding, cluster)
    # Of rank 0 alone: the ranks do the same things.
    profile = StepProfile(profiled if cluster.rank == 0 else None, folder)
    saver = None
    if parts.data.facts["effective_transform"] is None:
        unknown = not_recorded(flags.data_dir)
        journal.emit("message", text=f"warning: {unknown}")
    try:
        if flags.checkpoint_dir is not None:
            saver = Saver(
                flags.checkpoint_dir, cluster, state, facts(chosen(), parts.data.facts),
                keep=flags.keep, interval=steps, patience=flags.stall_timeout, journal=journal,
            )  # fmt: skip
        first, evaluations = _begin(flags, cluster, parts.data, state, saver, journal)
        if saver is not None:
            saver.check_names(first, _last_step(flags, parts.data.steps_per_epoch))
        _tell_unreached(flags, parts.data.steps_per_epoch, profiled, first, step, journal)
        votes = ControlVotes(minutes if saver is not None else None, cluster.rank)
        result = Loop(
            flags, cluster, parts.data, step, evaluation, rates, scale, journal, votes,
            profile=profile, watchdog=watchdog, saver=saver, early_stop=early_stop(flags),
            start=first, evaluations=evaluations,
        ).run()  # fmt: skip
    finally:
        profile.close()
        if saver is not None:
            saver.close()
        journal.close()
    return EXIT_INTERRUPTED if result["stopped_by"] == "signal" else EXIT_OK


def _check_reached(flags, steps_per_epoch, profiled):
    """Raises UserError if the run ends before the steps that are to be measured."""
    total = _last_step(flags, steps_per_epoch)
    if profiled is not None and profiled[0] > total:
        raise UserError(f"--profile_steps={flags.profile_steps}: the run has {total} steps")
    if flags.step_breakdown and total < LAST:
        raise UserError(f"--step_breakdown takes {LAST} steps, the run has {total}")


def _tell_unreached(flags, steps_per_epoch, profiled, start, step, journal):
    """Says what a run that goes on after a checkpoint has not enough steps left to measure.

    No error: the same command has to finish what it began.
    """
    left = max(0, _last_step(flags, steps_per_epoch) - start)
    if profiled is not None and profiled[1] <= start:
        text = f"no profile: step {start}, after which the run goes on, is beyond --profile_steps="
        journal.emit("message", text=f"warning: {text}{flags.profile_steps}")
    if flags.step_breakdown and left < LAST:
        text = f"no breakdown: --step_breakdown takes {LAST} steps, and {left} are left"
        journal.emit("message", text=f"warning: {text} after step {start}")
        step.disable()


def _last_step(flags, steps_per_epoch):
    return min(flags.epochs * steps_per_epoch, early_stop(flags) or math.inf)


def _begin(flags, cluster, data, state, saver, journal):
    """Loads what the run begins with; returns (number of the last step, its evaluations).

    The first of: the newest whole checkpoint in --checkpoint_dir, with its place in the data;
    --restore, from step 0; the initial weights.
    """
    if saver is not None:
        reader = restore.latest_complete(flags.checkpoint_dir, cluster, _report(journal))
        if reader is not None:
            changed = compatibility.check(
                reader, chosen(), data.facts, data.vocab_sizes, resume=True
            )
            restore.load(reader, state, training=True)
            step = reader.manifest["step"]
            saver.resumed(step)
            journal.emit("message", text=f"resuming after step {step} from {reader.folder}")
            _say_unchecked(reader, data, journal)
            for line in changed:
                journal.emit("message", text=f"since then changed: {line}")
            return step, reader.manifest["evaluations"]
    if flags.restore is not None:
        reader = find_checkpoint(flags, cluster, _report(journal))
        compatibility.check(reader, chosen(), data.facts, data.vocab_sizes, resume=False)
        restore.load(reader, state, training=True)
        step = reader.manifest["step"]
        journal.emit("message", text=f"weights of step {step} from {reader.folder}")
        _say_unchecked(reader, data, journal)
    return 0, []


def _say_unchecked(reader, data, journal):
    line = compatibility.unchecked(reader, data.facts)
    if line is not None:
        journal.emit("message", text=f"warning: {line}")


def _report(journal):
    """Returns what says a line about a damaged checkpoint, on the rank that has found it."""

    def report(text):
        warn(text)
        journal.emit("message", text=text)

    return report


def _journal(flags, cluster):
    """Returns (the journal, its folder or None): rank 0's alone has sinks."""
    if cluster.rank != 0:
        return Journal(), None
    logs = [] if flags.mlperf_log is None else [MLPerfLog(flags.mlperf_log, flags)]
    folder = run_folder(flags)
    progress = make_progress(flags.print_interval)
    sinks = [JsonLines(folder), TensorBoard(folder), progress, SummaryTable(), *logs]
    return Journal(sinks), folder
