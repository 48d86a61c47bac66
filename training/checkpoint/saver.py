"""Writes checkpoints while training continues.

`begin` copies the dense state and takes a `Snapshot` of the tables. A thread of each rank then
streams its rows into files and publishes a completion record in the checkpoint's folder. Rank 0's
thread waits for all records, writes the manifest and the checksums and renames the folder. The
threads exchange no messages, so they do not interfere with training's collectives.
"""

from __future__ import annotations

import contextlib
import pathlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.atomic import sync_folder
from training.checkpoint import checksums, folder, manifest
from training.checkpoint.completion_records import await_ranks, publish_done, record_path
from training.checkpoint.shard_writer import ShardWriter
from training.checkpoint.snapshot import Snapshot
from training.checkpoint.write_errors import translate_write_errors
from training.runtime import memory
from training.runtime.errors import UserError

if TYPE_CHECKING:
    from model.embedding.interface import ExchangePlan
    from training.checkpoint.state import State
    from training.runtime.process_group import ProcessGroup
    from training.telemetry.journal import Journal


class Saver:
    """Writes the checkpoints of a run.

    Args:
        path: folder of checkpoints, on storage that all ranks share.
        cluster: the ranks.
        state: the state to save.
        facts: the manifest's "flags", "data" and "versions"; only rank 0's are written.
        keep: number of checkpoints to keep.
        interval: steps between two checkpoints, or None.
        timeout: seconds without progress after which rank 0 stops waiting for the others' files.
        journal: gets a "checkpoint" event for each checkpoint.

    Raises:
        UserError: the folder cannot be created or written, or not all ranks share it.
    """

    def __init__(
        self,
        path: str | pathlib.Path,
        cluster: ProcessGroup,
        state: State,
        facts: Mapping[str, Any],
        *,
        keep: int,
        interval: int | None,
        timeout: float,
        journal: Journal,
    ) -> None:
        self._path = pathlib.Path(path)
        self._cluster = cluster
        self._state = state
        self._facts = facts
        self._keep = keep
        self._interval = interval
        self._timeout = timeout
        self._journal = journal
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._snapshot: Snapshot | None = None
        self._stopping = threading.Event()
        self._event: dict[str, Any] = {}
        self._begun, self._pause = 0.0, 0.0
        # These two are equal on all ranks, whichever thread ends first.
        self._last: int | None = None
        self._outstanding = False
        prepare(self._path, cluster)

    def due(self, step: int) -> bool:
        """Returns whether a checkpoint is due after a step."""
        return bool(self._interval) and step % self._interval == 0

    def resumed(self, step: int) -> None:
        """Records that the run resumes from the folder's checkpoint of this step."""
        self._last = step

    def check_names(self, start: int, end: float) -> None:
        """Checks, before the first step, that no foreign content has a checkpoint's name.

        Foreign content under a name that this run does not need is a warning.

        Args:
            start: the last step before the run's own.
            end: the run's last step.

        Raises:
            UserError: this run may have to write a checkpoint under such a name.
        """
        found = folder.foreign(self._path) if self._cluster.rank == 0 else []
        taken = [(step, path, reason) for step, path, reason in found if start < step <= end]
        for step, path, reason in found:
            if not start < step <= end:
                text = f"warning: {path} {reason}: it is not a checkpoint and is left unchanged"
                self._journal.emit("message", text=text)
        if not self._cluster.all_reduce_sum([float(len(taken))])[0]:
            return
        problem, path, reason = "rank 0 cannot write its checkpoints", self._path, None
        if taken:
            step, path, reason = taken[0]
            problem = f"{path} {reason}: it is not a checkpoint, but this run may write the "
            problem += f"checkpoint of step {step} there; move it away, or give another folder"
        raise UserError.of_flag("checkpoint_dir", self._path, problem, path=path)

    def newest(self) -> pathlib.Path | None:
        """Returns the path of the newest checkpoint that the run wrote or resumed from, or None."""
        # Checkpoints of later steps are damaged ones that the start skipped.
        found = folder.checkpoints(self._path, up_to=-1 if self._last is None else self._last)
        return found[-1][1] if found else None

    def before_step(self, plan: ExchangePlan, on_wait: Callable[[], None] = lambda: None) -> None:
        """Preserves the rows that the step will update if a checkpoint is being written.

        Args:
            plan: the exchange plan of the step's batch.
            on_wait: called before a wait for the disk.
        """
        snapshot = self._snapshot
        if snapshot is None or self._thread is None or not self._thread.is_alive():
            return
        begin = time.perf_counter()
        snapshot.before_change(self._state.embedding.touched_rows(plan), on_wait)
        self._pause += time.perf_counter() - begin

    def begin(self, step: int, epoch: int, evaluations: Sequence[Mapping[str, Any]]) -> None:
        """Begins the checkpoint of a step, after the previous one is complete.

        Does nothing if the newest checkpoint is of this step already.

        Args:
            step: number of the last step whose updates the weights contain.
            epoch: number of complete epochs.
            evaluations: records of the evaluations so far.

        Raises:
            UserError: this checkpoint, or the previous one, cannot be written.
        """
        self.finish()
        if self._last == step:
            return
        self._last, self._outstanding = step, True
        begin = time.perf_counter()
        partial = self._path / (folder.name_of(step) + folder.PARTIAL)
        with self._translate_errors(partial):
            # Any rank may create it; `prepare` has removed the folder of a killed run.
            partial.mkdir(exist_ok=True)
        snapshot = None
        if self._state.tables.tracked is not None:
            budget = max(256 << 20, memory.available() // 4)
            snapshot = Snapshot(self._state.tables.tracked, budget // self._cluster.local_size)
        copies = self._state.copies(self._cluster.rank)
        head = {"step": step, "epoch": epoch, "evaluations": list(evaluations), **self._facts}
        writer = ShardWriter(partial, self._state, copies, snapshot)
        with self._translate_errors(partial):
            writer.write_unsnapshotted()
        self._stopping.clear()
        self._event = {"step": step, "path": str(self._path / folder.name_of(step))}
        self._begun, self._pause = begin, time.perf_counter() - begin
        self._snapshot = snapshot
        self._thread = threading.Thread(
            target=self._run, args=(partial, writer, head), name="checkpoint", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Emits the event of a checkpoint that this rank has finished.

        Raises:
            UserError: it could not be written.
        """
        if self._thread is not None and not self._thread.is_alive():
            self._thread.join()
            self._thread, self._snapshot = None, None
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            self._journal.emit("checkpoint", **self._event)

    def finish(self) -> None:
        """Waits until the current checkpoint is complete on all ranks.

        Raises:
            UserError: it could not be written.
        """
        if not self._outstanding:
            return
        if self._thread is not None:
            self._thread.join()
        self.check()
        # Wait for rank 0 to rename the folder.
        self._cluster.all_reduce_sum([1.0])
        self._outstanding = False

    def close(self) -> None:
        """Abandons a checkpoint that is being written."""
        self._stopping.set()
        if self._snapshot is not None:
            self._snapshot.end()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self, partial: pathlib.Path, writer: ShardWriter, head: Mapping[str, Any]) -> None:
        try:
            with self._translate_errors(partial):
                record = writer.write_rest(self._stopping)
                if record is None:
                    return
                publish_done(partial, self._cluster.rank, record)
                if self._cluster.rank == 0:
                    self._event["bytes"] = self._commit(partial, head)
                self._event["seconds"] = time.perf_counter() - self._begun
                self._event["pause_seconds"] = self._pause
        except Exception as error:
            # `check` raises it in the training thread.
            self._error = error
        finally:
            if writer.snapshot is not None:
                writer.snapshot.end()

    def _commit(self, partial: pathlib.Path, head: Mapping[str, Any]) -> int:
        """Completes the checkpoint; returns the size of its arrays in bytes."""
        records = await_ranks(partial, self._cluster.size, self._timeout, self._stopping)
        digests, described, tables, size = {}, {}, [], 0
        for record in records:
            digests.update(record["digests"])
            tables += record["tables"]
            size += record["bytes"]
            for group, named in record["named"].items():
                described.setdefault(group, {}).update(named)
        tables.sort(key=lambda t: (t["table"], t["state"], t["column_start"], t["row_offset"]))
        text = manifest.text_of(
            {
                **head,
                "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "ranks": self._cluster.size,
                **self._state.description(),
                **described,
                "tables": tables,
            }
        )
        digests[manifest.NAME] = checksums.write_text(partial / manifest.NAME, text)
        checksums.write_checksums(partial, digests)
        for rank in range(self._cluster.size):
            record_path(partial, rank).unlink()
        sync_folder(partial)
        folder.replace(partial, self._path / partial.name[: -len(folder.PARTIAL)])
        folder.prune(self._path, self._keep, head["step"])
        return size

    def _translate_errors(self, partial: pathlib.Path) -> contextlib.AbstractContextManager[None]:
        rank = self._cluster.rank
        return translate_write_errors(partial, rank, self._state.bytes_of(rank), self.newest)


def prepare(path: pathlib.Path, cluster: ProcessGroup) -> None:
    """Creates the folder of checkpoints, removes unfinished ones, checks that all ranks share it.

    Raises:
        UserError: it cannot be created or written, or not all ranks see rank 0's files.
    """
    # A random name, which no other file has.
    number = secrets.randbits(48) if cluster.rank == 0 else 0
    probe = path / f".ranks-{int(cluster.all_reduce_sum(np.array([number], np.int64))[0])}"
    try:
        if cluster.rank == 0:
            path.mkdir(parents=True, exist_ok=True)
            folder.clean(path)
            probe.touch(exist_ok=False)
    except OSError as error:
        problem = f"cannot be written: {error.strerror}: {error.filename}"
        raise UserError.of_flag("checkpoint_dir", path, problem, path=error.filename) from error
    cluster.all_reduce_sum([1.0])
    seen = int(cluster.all_reduce_sum([float(probe.exists())])[0])
    if cluster.rank == 0:
        probe.unlink(missing_ok=True)
    if seen < cluster.size:
        problem = (
            f"expected storage that all ranks share, but {cluster.size - seen} of {cluster.size} "
            "ranks do not see the files of rank 0"
        )
        raise UserError.of_flag("checkpoint_dir", path, problem, path=path)
