"""The variables in which launchers pass a rank its place: rank, size, and both on its host."""


def _four(prefix, names=("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")):
    return tuple(prefix + name for name in names)


LAUNCHERS = {
    "gloo": _four("HOROVOD_"),
    "openmpi": _four("OMPI_COMM_WORLD_"),
    "mvapich": _four("MV2_COMM_WORLD_"),
    "jsrun": _four("JSM_NAMESPACE_"),
    "hydra": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "cray": _four("PMI_"),
    "slurm": (
        "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"
    ),
    "prrte": _four("PMIX_"),
}  # fmt: skip


def variables(name, *values):
    """Returns {variable: text} of a launcher for (rank, size, local rank, local size)."""
    return {variable: str(value) for variable, value in zip(LAUNCHERS[name], values)}
