"""From a checkpoint into a job: which one, and its values."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from training.checkpoint import files, folder, keras_names, manifest
from training.checkpoint.reader import Reader
from training.runtime.console import warn
from training.runtime.errors import UserError

if TYPE_CHECKING:
    from training.checkpoint.state import State
    from training.config import CheckpointConfig

# Of the loss scale, what --loss_scale=dynamic finds while it trains.
_FOUND_SCALE = ("loss_scale", "good_steps")


class Ranks(Protocol):
    """The ranks of a job (`training.runtime.process_group`), as far as reading needs them."""

    rank: int
    size: int

    def all_reduce_sum(self, values) -> np.ndarray:
        """Returns the element-wise sum over ranks."""
        ...


def find_checkpoint(
    checkpoint: CheckpointConfig, cluster: Ranks, report: Callable[[str], None] = warn
) -> Reader:
    """Returns a `Reader` of --restore, or of the newest whole checkpoint in --checkpoint_dir.

    Args:
        checkpoint: one of the two is given.
        cluster: the ranks; all of them must call.
        report: called with a line about each damaged checkpoint.

    Raises:
        UserError: there is no such folder, or no whole checkpoint in it.
    """
    path = checkpoint.restore or checkpoint.checkpoint_dir or ""
    where = f"--{'restore' if checkpoint.restore else 'checkpoint_dir'}={path}"
    if not pathlib.Path(path).is_dir():
        raise UserError(f"{where}: no such folder; expected a checkpoint or a folder of them")
    reader = latest_complete(path, cluster, report)
    if reader is None:
        raise UserError(f"{where}: there is no whole checkpoint")
    return reader


def latest_complete(
    path: str | os.PathLike, cluster: Ranks, report: Callable[[str], None]
) -> Reader | None:
    """Finds the newest checkpoint whose every byte is as it was written.

    Every rank reads its share of the files. A damaged checkpoint is reported and passed over.

    Args:
        path: folder of checkpoints, or one checkpoint.
        cluster: the ranks; all of them must call.
        report: called with a line about each damaged checkpoint, on the rank that found it.

    Returns:
        A `Reader`, the same checkpoint on all ranks, or None.
    """
    candidates = _candidates(path)
    # Rank 0 says which there are: a shared file system may show the others an older list.
    for _ in range(int(_from_rank_0(cluster, len(candidates)))):
        step, local = candidates.pop() if candidates else (-1, None)
        wanted = int(_from_rank_0(cluster, step))
        if local is None or step != wanted:
            local = pathlib.Path(path) / folder.name_of(wanted)
        read, damage = {}, None
        try:
            read, digests = manifest.read(local)
            share = manifest.largest_first(read, digests)[cluster.rank :: cluster.size]
            damage = next(iter(files.verify_all(local, {n: digests[n] for n in share})), None)
        except files.DamagedError as error:
            damage = error
        if damage is not None:
            report(f"checkpoint {local} is damaged and passed over: {damage}")
        if not cluster.all_reduce_sum([float(damage is not None)])[0]:
            return Reader(local, read)
    return None


def load(reader: Reader, state: State, *, training: bool) -> None:
    """Puts a checkpoint's values into a job.

    Args:
        reader: the checkpoint.
        state: the job's `training.checkpoint.state.State`.
        training: load optimizer, loss scale and Adagrad's sums too.

    Raises:
        DamagedError: a value that the job has is not there, or has another shape.
    """
    for group, variables in state.named.items():
        if group != "dense" and not training:
            continue
        there, here = set(reader.manifest[group]), set(variables)
        if group == "optimizer":
            there = keras_names.without_momentum(there)
        if there != here:
            wrong = [
                f"{what} {', '.join(sorted(names)[:3])}{' ...' if len(names) > 3 else ''}"
                for what, names in (("lacks", here - there), ("has unexpected", there - here))
                if names
            ]
            raise files.DamagedError(
                f"{reader.folder}: {group} state {' and '.join(wrong)} (expected {len(here)} "
                f"arrays, found {len(there)})"
            )
        for name, variable in variables.items():
            if name in _FOUND_SCALE and not _finds_scale(reader, state):
                continue
            values = reader.named(group, name)
            expected = (tuple(variable.shape), getattr(variable.dtype, "name", variable.dtype))
            if (values.shape, values.dtype.name) != expected:
                raise files.DamagedError(
                    f"{reader.folder}: {group} {name} is {list(values.shape)} {values.dtype}, "
                    f"expected {list(expected[0])} {expected[1]}"
                )
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


def _finds_scale(reader: Reader, state: State) -> bool:
    """Returns whether a loss scale found while training goes on; any other is as configured."""
    return state.dynamic_scale and reader.manifest["flags"].get("loss_scale") == "dynamic"


def _candidates(path: str | os.PathLike) -> list[tuple[int, pathlib.Path]]:
    """Returns [(step, path)], oldest first, of the checkpoints at a path."""
    path = pathlib.Path(path)
    if folder.is_checkpoint(path):
        return [(0, path)]
    return folder.checkpoints(path)


def _from_rank_0(cluster: Ranks, number: int) -> int:
    return cluster.all_reduce_sum(np.array([number if cluster.rank == 0 else 0], np.int64))[0]
