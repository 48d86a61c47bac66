"""Selects a checkpoint and loads its values into a job."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from training.checkpoint import checksums, folder, manifest
from training.checkpoint.errors import DamagedError
from training.checkpoint.reader import Reader
from training.runtime.console import warn
from training.runtime.errors import UserError

if TYPE_CHECKING:
    from training.checkpoint.state import State
    from training.config import CheckpointConfig

# Loss scale variables that --loss_scale=dynamic adapts during training.
_ADAPTED_SCALE = ("loss_scale", "good_steps")


class Ranks(Protocol):
    """The part of `training.runtime.process_group.ProcessGroup` that reading needs."""

    rank: int
    size: int

    def all_reduce_sum(self, values) -> np.ndarray:
        """Returns the element-wise sum over the ranks."""
        ...


def find_checkpoint(
    checkpoint: CheckpointConfig, cluster: Ranks, report: Callable[[str], None] = warn
) -> Reader:
    """Returns a `Reader` of --restore, or of the newest complete checkpoint in --checkpoint_dir.

    Args:
        checkpoint: flags, of which --restore or --checkpoint_dir is set.
        cluster: the ranks; all of them must call.
        report: called with a line about each damaged checkpoint.

    Raises:
        UserError: the folder does not exist or has no complete checkpoint.
    """
    path = checkpoint.restore or checkpoint.checkpoint_dir or ""
    flag = "restore" if checkpoint.restore else "checkpoint_dir"
    if not pathlib.Path(path).is_dir():
        problem = "no such folder; expected a checkpoint or a folder of checkpoints"
        raise UserError.of_flag(flag, path, problem, path=path)
    reader = latest_complete(path, cluster, report)
    if reader is None:
        raise UserError.of_flag(flag, path, "has no complete checkpoint", path=path)
    return reader


def latest_complete(
    path: str | os.PathLike, cluster: Ranks, report: Callable[[str], None]
) -> Reader | None:
    """Finds the newest checkpoint whose files all match their checksums.

    Each rank verifies its share of the files. Damaged checkpoints are reported and skipped.

    Args:
        path: a folder of checkpoints, or one checkpoint.
        cluster: the ranks; all of them must call.
        report: called with a line about each damaged checkpoint, on the rank that found it.

    Returns:
        A `Reader` of the same checkpoint on all ranks, or None.
    """
    candidates = _candidates(path)
    # Rank 0 decides: a shared file system may show an older list to the others.
    for _ in range(int(_from_rank_0(cluster, len(candidates)))):
        step, local = candidates.pop() if candidates else (-1, None)
        wanted = int(_from_rank_0(cluster, step))
        if local is None or step != wanted:
            local = pathlib.Path(path) / folder.name_of(wanted)
        read, damage = {}, None
        try:
            read, digests = manifest.read(local)
            share = manifest.largest_first(read, digests)[cluster.rank :: cluster.size]
            damage = next(iter(checksums.verify_files(local, {n: digests[n] for n in share})), None)
        except DamagedError as error:
            damage = error
        if damage is not None:
            report(f"skipping damaged checkpoint {local}: {damage}")
        if not cluster.all_reduce_sum([float(damage is not None)])[0]:
            return Reader(local, read)
    return None


def load(reader: Reader, state: State, *, training: bool) -> None:
    """Loads a checkpoint's values into a job.

    Args:
        reader: the checkpoint.
        state: the job's state.
        training: whether to load the states of the optimizers and the loss scale too.

    Raises:
        DamagedError: the checkpoint lacks a value of the job, or has it in another shape.
    """
    for group, variables in state.named.items():
        if group != "dense" and not training:
            continue
        _check_names(reader, group, set(variables))
        for name, variable in variables.items():
            if name in _ADAPTED_SCALE and not _keeps_adapted_scale(reader, state):
                continue
            values = reader.named(group, name)
            dtype = getattr(variable.dtype, "name", variable.dtype)
            expected = f"{dtype} {list(variable.shape)}"
            found = f"{values.dtype} {list(values.shape)}"
            if found != expected:
                problem = f"{group} {name}: expected {expected}, found {found}"
                raise DamagedError.of_path(reader.folder, problem, expected=expected)
            variable.assign(values)
    for stored in state.tables.all:
        if stored.state != "table" and not training:
            continue
        shard = stored.shard
        columns = (shard.column_start, shard.column_end)
        for begin, count in stored.ranges():
            first = shard.row_offset + shard.row_stride * begin
            values = reader.rows(shard.table, stored.state, first, shard.row_stride, count, columns)
            stored.write(begin, values)


def without_unused_momentum(names: Iterable[str]) -> set[str]:
    """Returns the names of a checkpoint's dense optimizer state, except momentum of SGD.

    In older releases Keras 2's optimizers trained the MLPs. Keras' Adagrad and Adam had the same
    variables as `training.optimizers`, in names, values and order. Its SGD without momentum stored
    a momentum that it never read: "01.m_kernel".
    """
    names = set(names)
    adam = any(re.match(r"\d+\.v_", name) for name in names)
    return names if adam else {name for name in names if not re.match(r"\d+\.m_", name)}


def _check_names(reader: Reader, group: str, expected: set[str]) -> None:
    found = set(reader.manifest[group])
    if group == "optimizer":
        found = without_unused_momentum(found)
    if found == expected:
        return
    wrong = [
        f"{verb} {', '.join(sorted(names)[:3])}{' ...' if len(names) > 3 else ''}"
        for verb, names in (("lacks", expected - found), ("has unexpected", found - expected))
        if names
    ]
    problem = f"{group} state {' and '.join(wrong)}"
    fields = {"expected": sorted(expected), "found": sorted(found)}
    raise DamagedError.of_path(reader.folder, problem, **fields)


def _keeps_adapted_scale(reader: Reader, state: State) -> bool:
    """Returns whether both jobs adapt their loss scale; otherwise the flag's value applies."""
    return state.dynamic_scale and reader.manifest["flags"].get("loss_scale") == "dynamic"


def _candidates(path: str | os.PathLike) -> list[tuple[int, pathlib.Path]]:
    """Returns [(step, path)], oldest first, of the checkpoints at a path."""
    return [(0, pathlib.Path(path))] if folder.is_checkpoint(path) else folder.checkpoints(path)


def _from_rank_0(cluster: Ranks, number: int) -> int:
    return cluster.all_reduce_sum(np.array([number if cluster.rank == 0 else 0], np.int64))[0]
