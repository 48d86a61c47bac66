"""`--mode=plan`: prints where tables go, what a step costs and how long it would take.

No TensorFlow, no ranks; of a dataset only its description is read.
"""

from __future__ import annotations

import dataset
from planner import plan
from planner.planned_run import Machines, PlannedRun, Tables
from planner.workload import ModelShape
from training.config import Config
from training.runtime.errors import EXIT_OK, UserError


def run(config: Config) -> int:
    """Runs the mode; returns the exit code.

    Raises:
        UserError: the tables do not fit, or sizes or names that cannot be.
    """
    try:
        print(plan.render(planned_run(config)))
    except ValueError as error:
        raise UserError(str(error)) from error
    return EXIT_OK


def planned_run(config: Config) -> PlannedRun:
    """Returns the run that a configuration describes, for the planner.

    Raises:
        ValueError: for sizes or names that cannot be, or a folder that is no dataset.
    """
    data, model, speed = config.data, config.model, config.speed
    sizes, of_data = data.table_sizes("mlperf"), {}
    if data.data_dir is not None:
        train = dataset.open_train(data.data_dir, data.data_layout)
        of_data["dense_features"] = train.dense_features
        sizes = tuple(train.vocab_sizes) if data.vocab_sizes is None else sizes
    shape = ModelShape(
        sizes,
        dimension=model.embedding_dim,
        bottom_mlp=model.bottom_widths,
        top_mlp=model.top_widths,
        interaction=model.interaction,
        **of_data,
    )
    placement = config.placement
    return PlannedRun(
        shape,
        Machines(config.job.ranks, config.job.device, memory_per_rank=placement.memory_bytes),
        Tables(
            config.training.embedding_optimizer,
            placement.placement,
            placement.column_split,
            placement.replicate_below_rows,
        ),
        global_batch_size=config.training.batch_size,
        amp=speed.amp,
        compress=speed.compress,
    )
