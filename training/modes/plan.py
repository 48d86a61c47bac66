"""`--mode=plan`: prints the placement of the tables and the predicted cost of a step and a run.

Uses neither TensorFlow nor ranks, and reads only the metadata of a dataset.
"""

from __future__ import annotations

from ops.bags import Bags
from planner import plan
from planner.planned_run import Machines, PlannedRun, Tables
from planner.workload import ModelShape
from training.config import Config
from training.runtime.errors import EXIT_OK, UserError
from training.sample_shape import made_hotness, of_dataset


def run(config: Config) -> int:
    """Runs the mode; returns the exit code.

    Raises:
        UserError: the tables do not fit, or a size or name is wrong.
    """
    try:
        print(plan.render(planned_run(config)))
    except ValueError as error:
        raise UserError(str(error), **getattr(error, "fields", {})) from error
    return EXIT_OK


def planned_run(config: Config) -> PlannedRun:
    """Returns a configuration as a run for the planner.

    Raises:
        ValueError: a size or name is wrong, or the folder is not a dataset.
    """
    data, model, speed = config.data, config.model, config.speed
    sizes, of_data = data.table_sizes("mlperf"), {}
    if data.data_dir is not None:
        sizes, bags, of_data["dense_features"] = of_dataset(data)
    else:
        bags = Bags.of(data.ids_per_sample("hotness", len(sizes)))
    of_data["hotness"] = bags.hotness
    if data.multi_hot is not None:
        of_data["hotness"] = made_hotness(data, bags)
        of_data["stored_hotness"] = bags.hotness
    shape = ModelShape(
        sizes,
        dimension=model.embedding_dim,
        bottom_mlp=model.bottom_widths,
        top_mlp=model.top_widths,
        interaction=model.interaction,
        cross_layers=model.cross_layers,
        cross_rank=model.cross_rank,
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
        tf32=speed.tf32,
        compress=speed.dedup_ids,
    )
