"""What several modes begin with: a checkpoint, its model's flags, a run folder, an evaluation."""

import contextlib
import dataclasses
import functools
import pathlib
import signal
import sys
import types

from training.checkpoint import compatibility, restore
from training.checkpoint.state import State
from training.evaluation import evaluate
from training.evaluation_cache import CachedBatches
from training.flags import chosen
from training.runtime import error_translation
from training.runtime.errors import RankLostError, UserError
from training.runtime.watchdog import Watchdog
from training.step import Forward
from training.telemetry.journal import Journal, JsonLines, new_run_folder, point_latest
from training.telemetry.progress import ProgressLines

# How long a failed exchange waits for the watch to find a lost rank (s): some ticks of the watch,
# and less than the five seconds that horovodrun leaves between SIGTERM and SIGKILL.
_VERDICT_SECONDS = 2.5
# The same for a SIGTERM: a death is told at once.
_DEATH_SECONDS = 1.0


def run_folder(flags):
    """Makes this run's folder, says where it is and returns its path.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder = new_run_folder(flags.run_dir)
        if not point_latest(folder):
            warn(f"{folder.parent / 'latest'}: is no link to a run: it stays as it is")
    except OSError as error:
        raise UserError(f"--run_dir={flags.run_dir}: {error.strerror}: {error.filename}") from error
    print(f"run folder: {folder}", file=sys.stdout, flush=True)
    return folder


def open_journal(flags, cluster):
    """Returns the journal of a job that does not train: files, and lines for people."""
    if cluster.rank != 0:
        return Journal()
    return Journal([JsonLines(run_folder(flags)), ProgressLines(sys.stdout)])


@contextlib.contextmanager
def watched(flags, cluster):
    """Gives a `Watchdog`, or for a single rank an object that does nothing in its place.

    Raises:
        RankLostError: an exchange failed; it names the rank that has left the job, if one has.
    """
    if cluster.size == 1:
        yield _Unwatched()
        return
    watchdog = Watchdog(cluster, flags.stall_timeout)

    def terminated(number, frame):
        # A launcher ends all ranks when it has lost one. The watch says which, and exits.
        watchdog.find_loss(_DEATH_SECONDS)
        signal.signal(number, before)
        signal.raise_signal(number)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        with error_translation.translate_errors(cluster.rank, cluster.size):
            yield watchdog
    except RankLostError as error:
        # The process ends: a SIGTERM that comes now must not keep it from saying why.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RankLostError(watchdog.find_loss(_VERDICT_SECONDS) or str(error)) from error
    else:
        signal.signal(signal.SIGTERM, before)
    finally:
        watchdog.close()


class _Unwatched:
    def heartbeat(self, activity):
        """Does nothing."""

    def pause(self, alone=False):
        """Does nothing."""


def find_checkpoint(flags, cluster, report=None):
    """Returns a `Reader` of --restore, or of the newest whole checkpoint in --checkpoint_dir.

    Args:
        flags: the parsed flags.
        cluster: the ranks; all of them must call.
        report: told of damaged checkpoints; default: standard error.

    Raises:
        UserError: there is no such folder, or no whole checkpoint in it.
    """
    path = flags.restore or flags.checkpoint_dir
    where = f"--{'restore' if flags.restore else 'checkpoint_dir'}={path}"
    if not pathlib.Path(path).is_dir():
        raise UserError(f"{where}: no such folder; expected a checkpoint or a folder of them")
    reader = restore.latest_complete(path, cluster, report or warn)
    if reader is None:
        raise UserError(f"{where}: there is no whole checkpoint")
    return reader


def warn(text):
    """Says a line on standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def adopt_model(flags, reader):
    """Sets the flags that describe the checkpoint's model, but for those that the user has given.

    A job that only looks forward keeps no optimizer's state.

    Args:
        flags: the parsed flags, changed in place.
        reader: the checkpoint.
    """
    for name in compatibility.MODEL_FLAGS:
        if not flags[name].present and name in reader.manifest["flags"]:
            setattr(flags, name, reader.manifest["flags"][name])
    flags.embedding_optimizer = "sgd"


def load_weights(reader, parts, cluster):
    """Puts a checkpoint's weights into a job that does not train.

    Args:
        reader: the checkpoint.
        parts: a `training.build.Parts`.
        cluster: the ranks.

    Raises:
        UserError: it is of another model.
        DamagedError: it does not hold what the model needs.
    """
    data = parts.data
    compatibility.check(
        reader, chosen(), data.facts, data.vocab_sizes, resume=False, training=False
    )
    line = compatibility.unchecked(reader, data.facts)
    if line is not None and cluster.rank == 0:
        warn(line)
    no_optimizer = types.SimpleNamespace(variables=[])
    no_scale = types.SimpleNamespace(variables={}, dynamic=False)
    state = State(parts.dense_model, no_optimizer, no_scale, parts.embedding, cluster)
    restore.load(reader, state, training=False)


def make_evaluation(flags, parts, cluster, journal=None):
    """Returns function (beat, stop) -> `training.evaluation.Evaluation`, or None without test data.

    Args:
        flags: the parsed flags.
        parts: a `training.build.Parts`.
        cluster: the ranks.
        journal: of a job that evaluates often: test data is kept in memory for it.
    """
    if parts.data.test is None:
        return None
    data = parts.data
    if journal is not None and flags.cache_eval_data:
        tell = functools.partial(journal.emit, "message")
        data = dataclasses.replace(data, test=CachedBatches(data.test, cluster, tell))
    forward = Forward(parts.dense_model, parts.embedding)
    return functools.partial(evaluate, forward, data, cluster, auc=flags.auc)
