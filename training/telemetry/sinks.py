"""Opens a job's journal: chooses its sinks and creates the run folder."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

from training.config import Config, OutputConfig
from training.runtime.console import warn
from training.runtime.errors import UserError
from training.telemetry.journal import Journal, JsonLines, new_run_folder, update_latest_link
from training.telemetry.mlperf_log import MLPerfLog
from training.telemetry.progress import ProgressBar, ProgressLines
from training.telemetry.summary import SummaryTable
from training.telemetry.tensorboard import TensorBoard

if TYPE_CHECKING:
    from training.runtime.process_group import ProcessGroup


def make_run_folder(run_dir: str) -> pathlib.Path:
    """Creates a run folder in `run_dir`, prints its path and returns it.

    Raises:
        UserError: the folder cannot be created.
    """
    try:
        folder = new_run_folder(run_dir)
        if not update_latest_link(folder):
            warn(f"{folder.parent / 'latest'}: not a link to a run: left unchanged")
    except OSError as error:
        problem = f"cannot create {error.filename}: {error.strerror}"
        raise UserError.of_flag("run_dir", run_dir, problem, path=error.filename) from error
    print(f"run folder: {folder}", flush=True)
    return folder


def open_journal(output: OutputConfig, cluster: ProcessGroup) -> Journal:
    """Returns the journal of a job that does not train; only rank 0 has sinks."""
    if cluster.rank != 0:
        return Journal()
    return Journal([JsonLines(make_run_folder(output.run_dir)), ProgressLines(sys.stdout)])


def open_training_journal(
    config: Config, cluster: ProcessGroup
) -> tuple[Journal, pathlib.Path | None]:
    """Returns (journal, run folder) of a training job; only rank 0 has sinks and a folder."""
    if cluster.rank != 0:
        return Journal(), None
    # First: an MLPerf log that cannot be created must not leave an empty run folder.
    logs = [] if config.mlperf.mlperf_log is None else [MLPerfLog(config)]
    folder = make_run_folder(config.output.run_dir)
    lines = ProgressLines(sys.stdout, config.output.print_interval)
    progress = ProgressBar(sys.stdout) if sys.stdout.isatty() else lines
    sinks = [JsonLines(folder), TensorBoard(folder), progress, SummaryTable(), *logs]
    return Journal(sinks), folder
