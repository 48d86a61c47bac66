"""Reads rank, size, local rank and local size from the variables that a launcher sets.

Used by `main.py` and by `hvd_wrapper.sh` (`training.runtime.binding`). Imports only the standard
library, since it runs before TensorFlow is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from training.runtime.errors import UserError

_ALL = ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE")
_SET_ALL = f"set {', '.join(_ALL[:-1])} and {_ALL[-1]}"


class Place(NamedTuple):
    """The place of this process in the job.

    `launcher` is the name of the launcher, or ""; `shown` is a text with the variables that hold
    rank and size, and their values.
    """

    launcher: str = ""
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    shown: str = ""


class _Launcher(NamedTuple):
    """The variables that a launcher sets; of several names the first one set counts."""

    name: str
    rank: tuple[str, ...]
    size: tuple[str, ...]
    local_rank: tuple[str, ...] = ()
    local_size: tuple[str, ...] = ()


_HOROVOD = _Launcher("horovodrun", *((name,) for name in _ALL))
# Ranks of these launchers may also see variables of `_MANAGERS` and PMI, which belong to the step
# that started the launcher's daemons. So the order matters: the first complete set counts.
_MPI = (
    *(_Launcher(name, *((prefix + end,) for end in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")))
      for name, prefix in (("jsrun", "JSM_NAMESPACE_"), ("Open MPI", "OMPI_COMM_WORLD_"),
                           ("MVAPICH2", "MV2_COMM_WORLD_"))),
    _Launcher("PALS", ("PALS_RANKID",), ("PALS_SIZE", "PALS_NRANKS"),
              ("PALS_LOCAL_RANKID",), ("PALS_LOCAL_SIZE",)),
    _Launcher("MPICH, Intel MPI or another launcher with PMI", ("PMI_RANK",), ("PMI_SIZE",),
              ("MPI_LOCALRANKID", "PMI_LOCAL_RANK", "PALS_LOCAL_RANKID"),
              ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE", "PALS_LOCAL_SIZE")),
)  # fmt: skip
_MANAGERS = (
    _Launcher("Flux", ("FLUX_TASK_RANK",), ("FLUX_JOB_SIZE",), ("FLUX_TASK_LOCAL_ID",)),
    _Launcher("Slurm", ("SLURM_PROCID",), ("SLURM_STEP_NUM_TASKS",), ("SLURM_LOCALID",)),
    _Launcher("PMIx", ("PMIX_RANK",), ("PMIX_SIZE",), ("PMIX_LOCAL_RANK",), ("PMIX_LOCAL_SIZE",)),
    _Launcher("torchrun", ("RANK",), ("WORLD_SIZE",), ("LOCAL_RANK",), ("LOCAL_WORLD_SIZE",)),
)


def read(environment: Mapping[str, str] = os.environ) -> Place:
    """Returns the `Place` of this process; without a launcher, that of a job with one process.

    Raises:
        UserError: a variable is not a number or out of range, two launchers' variables contradict
            each other, or a launcher's variables are incomplete.
    """
    own = _Variables(_HOROVOD, environment)
    others = [_Variables(launcher, environment) for launcher in (*_MPI, *_MANAGERS)]
    if own.rank is None and own.size is None:
        chosen = _choose(others)
    else:
        chosen = own
        if own.rank is None or own.size is None:
            missing = _HOROVOD.size[0] if own.size is None else _ALL[0]
            text = f"{own.shown()} without {missing}: {_SET_ALL}, or unset them all"
            raise UserError(text, field=missing)
        _check_agreement(own, others[: len(_MPI)], others[len(_MPI) :])
    if chosen is None or chosen.rank is None or chosen.size is None:
        if own.local_rank is not None or own.local_size is not None:
            text = f"{own.shown()} without {_ALL[0]}: {_SET_ALL}, or unset them all"
            raise UserError(text, field=_ALL[0])
        return Place()
    local_rank, local_size = _local(chosen, own, others)
    place = Place(
        chosen.launcher.name, chosen.rank, chosen.size, local_rank, local_size, chosen.shown()
    )
    if local_size > place.size:
        text = f"{chosen.shown()}: expected at most {place.size} local ranks, found {local_size}"
        raise UserError(text, bound=place.size)
    return place


class _Variables:
    """The values of one launcher's variables: numbers, or None where a variable is not set."""

    rank: int | None
    size: int | None
    local_rank: int | None
    local_size: int | None

    def __init__(self, launcher: _Launcher, environment: Mapping[str, str]):
        self.launcher = launcher
        self._names = {}
        given = {
            "torchrun": "TORCHELASTIC_RUN_ID" in environment,
            # A batch script or a shell of salloc has a rank but no step.
            "Slurm": bool(environment.get("SLURM_STEP_NUM_TASKS")),
        }.get(launcher.name, True)
        for field in ("rank", "size", "local_rank", "local_size"):
            names = getattr(launcher, field) if given else ()
            name = next((n for n in names if environment.get(n)), None)
            value = None if name is None else _number(name, environment[name], "size" in field)
            setattr(self, field, value)
            if name is not None:
                self._names[field] = name
        if given and launcher.name == "Slurm":
            self.local_size = _slurm_local_size(environment)
        if launcher.name == "Flux" and self.size and environment.get("FLUX_JOB_NNODES"):
            nodes = _number("FLUX_JOB_NNODES", environment["FLUX_JOB_NNODES"], True)
            self.local_size = -(-self.size // nodes)  # the maximum if tasks are spread evenly
        self._check("rank", "size")
        self._check("local_rank", "local_size")

    @property
    def complete(self) -> bool:
        return self.rank is not None and self.size is not None

    @property
    def several(self) -> bool:
        return self.complete and self.size is not None and self.size > 1

    @property
    def visible(self) -> bool:
        return "rank" in self._names or "local_rank" in self._names

    def shown(self) -> str:
        """Returns the variables that are set, such as "HOROVOD_RANK=1 HOROVOD_SIZE=2"."""
        return " ".join(
            f"{name}={getattr(self, field)}"
            for field, name in self._names.items()
            if field in ("rank", "size") or not self.complete
        )

    def _check(self, which: str, of: str) -> None:
        number, bound = getattr(self, which), getattr(self, of)
        if number is not None and bound is not None and number >= bound:
            bounded = self._names.get(of, f"{which.replace('rank', 'ranks')} of the host")
            problem = f"expected a {which.replace('_', ' ')} from 0 to {bound - 1}"
            name = self._names[which]
            text = f"{name}={number}, {bounded}={bound}: {problem}"
            raise UserError(text, field=name, bound=bound - 1)


def _number(name: str, text: str, positive: bool) -> int:
    # int() would also accept "1_0", " 1" and any length.
    if not re.fullmatch("[0-9]{1,9}", text) or (positive and int(text) == 0):
        problem = f"expected an integer of at least {int(positive)}; correct or unset the variable"
        raise UserError(f"{name}={text}: {problem} (the launcher normally sets it)", field=name)
    return int(text)


def _slurm_local_size(environment: Mapping[str, str]) -> int | None:
    """Returns the number of the step's tasks on this node, from e.g. "8(x2),4"; None if unset.

    Without SLURM_NODEID, returns the largest number of any node.
    """
    name = "SLURM_STEP_TASKS_PER_NODE"
    text = environment.get(name)
    if not text:
        return None
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,6})\))?", part)
        if not match:
            raise UserError(f"{name}={text}: expected numbers such as 8(x2),4", field=name)
        counts += [int(match[1])] * int(match[2] or 1)
    node = environment.get("SLURM_NODEID")
    if node and node.isdecimal() and int(node) < len(counts):
        return counts[int(node)]
    return max(counts)


def _choose(others: Sequence[_Variables]) -> _Variables | None:
    """Returns the first complete set with several ranks, else the first complete one, or None.

    Raises:
        UserError: a launcher set variables, but no set is complete.
    """
    complete = [other for other in others if other.complete]
    chosen = next((other for other in complete if other.several), (complete or [None])[0])
    visible = next((other for other in others if other.visible), None)
    if chosen is None and visible is not None:
        lacking = "size" if visible.size is None else "rank"
        raise UserError(
            f"{visible.shown()}: {visible.launcher.name} started this process, but no variable "
            f"holds the {lacking} of its job: start it with horovodrun, or {_SET_ALL}",
            field=f"HOROVOD_{lacking.upper()}",
        )
    return chosen


def _check_agreement(
    own: _Variables, others: Sequence[_Variables], managers: Sequence[_Variables]
) -> None:
    # PMI variables equal to a Slurm step's may belong to a shell in that step, like Slurm's own.
    steps = [(other.rank, other.size) for other in managers if other.complete]
    for other in others:
        if other.several and (other.rank, other.size) not in steps:
            if (other.rank, other.size) != (own.rank, own.size):
                raise UserError(
                    f"{own.shown()}, but {other.shown()} ({other.launcher.name}): expected the "
                    "same rank and size; unset the variables left over from another job"
                )
            return


def _local(chosen: _Variables, own: _Variables, others: Sequence[_Variables]) -> tuple[int, int]:
    """Returns (local rank, local size); takes missing ones from sets of the same rank and size."""
    agreeing = [other for other in others if (other.rank, other.size) == (chosen.rank, chosen.size)]
    if own.rank is None:
        agreeing.append(own)
    numbers = []
    for field, only in (("local_rank", 0), ("local_size", 1)):
        values = (getattr(other, field) for other in (chosen, *agreeing))
        number = next((value for value in values if value is not None), None)
        if number is None and chosen.several:
            name = f"HOROVOD_{field.upper()}"
            text = f"{chosen.shown()} without a {field.replace('_', ' ')}: set {name} for each rank"
            raise UserError(text, field=name)
        numbers.append(only if number is None else number)
    if numbers[0] >= numbers[1]:
        last = numbers[1] - 1
        text = f"{chosen.shown()}: expected a local rank from 0 to {last}, found {numbers[0]}"
        raise UserError(text, bound=last)
    return numbers[0], numbers[1]
