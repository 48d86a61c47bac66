"""Runs a job: imports TensorFlow, connects the ranks and starts the mode."""

from __future__ import annotations

import importlib

from training.config import Config
from training.runtime import environment
from training.runtime.console import warn
from training.runtime.errors import UserError
from training.runtime.launcher import Place


def run(config: Config, place: Place) -> int:
    """Runs a job on all ranks; returns the exit code (`training.runtime.errors`).

    Args:
        config: a configuration of any mode except plan, which has no ranks.
        place: rank and size of this process.

    Raises:
        UserError: the configuration, the data or the machine does not allow the job.
        DivergedError: the loss or a score became NaN or infinite.
        RankLostError: another rank died or stopped answering.
    """
    with environment.quick_imports(), environment.suppress_notices():
        import dataset
        from model.embedding.backend import BackendError
        from model.embedding.placement import PlacementError
        from ops.loader import LibraryNotBuiltError
        from ops.nvtx import ranges
        from training.checkpoint.errors import DamagedError
        from training.runtime import error_translation, gpus, process_group
        from training.runtime.monitor import monitored

        mode = importlib.import_module(f"training.modes.{config.job.mode}")
    user_errors = (
        dataset.DatasetError,
        PlacementError,
        LibraryNotBuiltError,
        BackendError,
        DamagedError,
    )
    # Before Horovod: its first exchange makes TensorFlow claim all visible GPUs.
    device = gpus.choose(place.local_rank)
    cluster = process_group.connect(place)
    with error_translation.translate_errors(cluster.rank, cluster.size):
        if cluster.local_rank == 0 and (
            problem := gpus.unused(device) or gpus.without_kernels(device)
        ):
            warn(problem)
        if cluster.size > 1:
            gpus.check(cluster, device)
        if cluster.rank == 0 and (problem := ranges.explain_missing_ranges()):
            warn(problem)
        try:
            with monitored(cluster, config.output.stall_timeout) as watch:
                code = mode.run(config, cluster, watch)
        except user_errors as error:
            raise UserError(str(error), **getattr(error, "fields", {})) from error
    cluster.shutdown()
    return code
