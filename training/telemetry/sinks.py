"""The journal of a job: which sinks it has, and the run's folder for them."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

from training.config import Config, OutputConfig
from training.runtime.console import warn
from training.runtime.errors import UserError
from training.telemetry.journal import Journal, JsonLines, new_run_folder, point_latest
from training.telemetry.mlperf_log import MLPerfLog
from training.telemetry.progress import ProgressLines, make_progress
from training.telemetry.summary import SummaryTable
from training.telemetry.tensorboard import TensorBoard

if TYPE_CHECKING:
    from training.runtime.process_group import ProcessGroup


def run_folder(run_dir: str) -> pathlib.Path:
    """Makes a run's folder below `run_dir`, prints where it is and returns its path.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder = new_run_folder(run_dir)
        if not point_latest(folder):
            warn(f"{folder.parent / 'latest'}: is no link to a run: it stays as it is")
    except OSError as error:
        raise UserError(f"--run_dir={run_dir}: {error.strerror}: {error.filename}") from error
    print(f"run folder: {folder}", file=sys.stdout, flush=True)
    return folder


def open_journal(output: OutputConfig, cluster: ProcessGroup) -> Journal:
    """Returns the journal of a job that does not train: files, and lines for people."""
    if cluster.rank != 0:
        return Journal()
    return Journal([JsonLines(run_folder(output.run_dir)), ProgressLines(sys.stdout)])


def open_training_journal(
    config: Config, cluster: ProcessGroup
) -> tuple[Journal, pathlib.Path | None]:
    """Returns the journal of a training and the run's folder: rank 0's alone has sinks."""
    if cluster.rank != 0:
        return Journal(), None
    logs = [] if config.mlperf.mlperf_log is None else [MLPerfLog(config)]
    folder = run_folder(config.output.run_dir)
    progress = make_progress(config.output.print_interval)
    sinks = [JsonLines(folder), TensorBoard(folder), progress, SummaryTable(), *logs]
    return Journal(sinks), folder
