"""Writes checkpoints while training goes on.

`begin` copies the dense state and takes a `Snapshot` of the tables; a thread of each rank then
streams its rows into files and leaves a note of them in the checkpoint's folder; rank 0's thread
waits for all notes, writes the manifest and the checksums and gives the folder its name. No rank
talks to another meanwhile, so that training's exchanges stay alone on the wire.
"""

from __future__ import annotations

import pathlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.atomic import sync_folder
from training.checkpoint import files, folder, manifest
from training.checkpoint.failures import ErrorTranslation
from training.checkpoint.notes import await_ranks, note_path, publish_done
from training.checkpoint.shard_writer import ShardWriter
from training.checkpoint.snapshot import Snapshot
from training.runtime import environment, memory
from training.runtime.errors import UserError

if TYPE_CHECKING:
    from model.embedding.interface import ExchangePlan
    from training.checkpoint.state import State
    from training.runtime.process_group import ProcessGroup
    from training.telemetry.journal import Journal


class Saver:
    """Writes the checkpoints of a run.

    Args:
        path: folder of checkpoints, on storage that all ranks see.
        cluster: the ranks (`training.runtime.process_group`).
        state: a `training.checkpoint.state.State`.
        facts: what the manifest says of the run: flags, data, versions (rank 0's counts).
        keep: number of checkpoints to keep.
        interval: steps between two checkpoints, or None.
        patience: seconds that rank 0 waits for the other ranks' files after its own.
        journal: gets a "checkpoint" event for each one.

    Raises:
        UserError: the folder cannot be made or written, or not all ranks see it.
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
        patience: float,
        journal: Journal,
    ) -> None:
        self._path = pathlib.Path(path)
        self._cluster = cluster
        self._state = state
        self._facts = facts
        self._keep = keep
        self._interval = interval
        self._patience = patience
        self._journal = journal
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._snapshot: Snapshot | None = None
        self._stopping = threading.Event()
        self._event: dict[str, Any] = {}
        self._begun, self._pause = 0.0, 0.0
        # The same on all ranks, whoever's thread is done first.
        self._last: int | None = None
        self._outstanding = False
        prepare(self._path, cluster)

    def due(self, step: int) -> bool:
        """Returns whether a checkpoint is to begin after a step."""
        return bool(self._interval) and step % self._interval == 0

    def resumed(self, step: int) -> None:
        """Records that the run goes on from the checkpoint of a step in the folder."""
        self._last = step

    def check_names(self, start: int, end: float) -> None:
        """Reports what in the folder only looks like a checkpoint, before the run's steps begin.

        Args:
            start: the last step before the run's own.
            end: the run's last step.

        Raises:
            UserError: one of them has the name of a checkpoint that this run may write.
        """
        found = folder.foreign(self._path) if self._cluster.rank == 0 else []
        taken = [(step, path, why) for step, path, why in found if start < step <= end]
        for step, path, why in found:
            if not start < step <= end:
                text = f"{path} {why}, which no checkpoint does: it stays as it is"
                self._journal.emit("message", text=f"warning: {text}")
        if not self._cluster.all_reduce_sum([float(len(taken))])[0]:
            return
        if not taken:
            raise UserError(f"--checkpoint_dir={self._path}: rank 0 cannot write its checkpoints")
        step, path, why = taken[0]
        raise UserError(
            f"{path}: {why}, which no checkpoint does, but this run may write the checkpoint of "
            f"step {step} there: move it away, or give another --checkpoint_dir"
        )

    def newest(self) -> pathlib.Path | None:
        """Returns the path of the newest checkpoint that the run went on from or wrote, or None."""
        # Of later steps there may be damaged ones, which the start has passed over.
        found = folder.checkpoints(self._path, up_to=-1 if self._last is None else self._last)
        return found[-1][1] if found else None

    def before_step(self, plan: ExchangePlan, waiting: Callable[[], None] = lambda: None) -> None:
        """Keeps what the step is about to change, while a checkpoint is being written.

        Args:
            plan: the embedding's plan of the step's batch.
            waiting: called before a wait for the disk.
        """
        snapshot = self._snapshot
        if snapshot is None or self._thread is None or not self._thread.is_alive():
            return
        begin = time.perf_counter()
        snapshot.before_change(self._state.embedding.touched_rows(plan), waiting)
        self._pause += time.perf_counter() - begin

    def begin(self, step: int, epoch: int, evaluations: Sequence[Mapping[str, Any]]) -> None:
        """Begins the checkpoint of a step, once the one before is whole; none for a step twice.

        Args:
            step: number of the last step that the weights have seen.
            epoch: epochs that are complete.
            evaluations: records of the evaluations so far.

        Raises:
            UserError: this checkpoint, or the one before, cannot be written.
        """
        self.finish()
        if self._last == step:
            return
        self._last, self._outstanding = step, True
        begin = time.perf_counter()
        partial = self._path / (folder.name_of(step) + folder.PARTIAL)
        with self._explained(partial):
            # Every rank may come first; what a killed run has left is gone since `prepare`.
            partial.mkdir(exist_ok=True)
        snapshot = None
        if self._state.tables.tracked is not None:
            budget = max(256 << 20, memory.available() // 4)
            snapshot = Snapshot(self._state.tables.tracked, budget // self._cluster.local_size)
        copies = self._state.copies(self._cluster.rank)
        head = {"step": step, "epoch": epoch, "evaluations": list(evaluations), **self._facts}
        writer = ShardWriter(partial, self._state, copies, snapshot)
        with self._explained(partial):
            # What no snapshot can follow is written before training goes on.
            writer.write_unsnapshotted()
        self._stopping.clear()
        self._event = {"step": step, "path": str(self._path / folder.name_of(step))}
        self._pause = time.perf_counter() - begin
        self._begun = begin
        self._snapshot = snapshot
        self._thread = threading.Thread(
            target=self._run, args=(partial, writer, head), name="checkpoint", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Sends an event for a checkpoint that has become whole.

        Raises:
            UserError: it cannot be written.
        """
        if self._thread is not None and not self._thread.is_alive():
            self._thread.join()
            self._thread, self._snapshot = None, None
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            self._journal.emit("checkpoint", **self._event)

    def finish(self) -> None:
        """Waits until the checkpoint that was begun is whole, on all ranks.

        Raises:
            UserError: it cannot be written.
        """
        if not self._outstanding:
            return
        if self._thread is not None:
            self._thread.join()
        self.check()
        # Rank 0 has renamed the folder; the others must not run ahead of that.
        self._cluster.all_reduce_sum([1.0])
        self._outstanding = False

    def close(self) -> None:
        """Gives up what is being written."""
        self._stopping.set()
        if self._snapshot is not None:
            self._snapshot.end()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self, partial: pathlib.Path, writer: ShardWriter, head: Mapping[str, Any]) -> None:
        try:
            with self._explained(partial):
                note = writer.write_rest(self._stopping)
                if note is None:
                    return
                publish_done(partial, self._cluster.rank, note)
                if self._cluster.rank == 0:
                    size = self._commit(partial, head)
                    self._event["bytes"] = size
                self._event["seconds"] = time.perf_counter() - self._begun
                self._event["pause_seconds"] = self._pause
        except Exception as error:
            # Raised again by `check`, in the thread that trains.
            self._error = error
        finally:
            if writer.snapshot is not None:
                writer.snapshot.end()

    def _commit(self, partial: pathlib.Path, head: Mapping[str, Any]) -> int:
        """Makes the checkpoint whole; returns its bytes."""
        notes = await_ranks(partial, self._cluster.size, self._patience, self._stopping)
        digests, described, size = {}, {}, 0
        tables = []
        for note in notes:
            digests.update(note["digests"])
            tables += note["tables"]
            size += note["bytes"]
            for group, named in note["named"].items():
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
        digests[manifest.NAME] = files.write_text(partial / manifest.NAME, text)
        files.write_checksums(partial, digests)
        for rank in range(self._cluster.size):
            note_path(partial, rank).unlink()
        sync_folder(partial)
        folder.replace(partial, self._path / partial.name[: -len(folder.PARTIAL)])
        folder.prune(self._path, self._keep, head["step"])
        return size

    def _explained(self, partial: pathlib.Path) -> ErrorTranslation:
        rank = self._cluster.rank
        return ErrorTranslation(partial, rank, self._state.bytes_of(rank), self.newest)


def prepare(path: pathlib.Path, cluster: ProcessGroup) -> None:
    """Makes the folder of checkpoints, removes a killed run's leavings, checks that all see it.

    Raises:
        UserError: it cannot be made or written, or rank 0's files do not appear to all ranks.
    """
    # A name that nobody's file has.
    number = secrets.randbits(48) if cluster.rank == 0 else 0
    probe = path / f".ranks-{int(cluster.all_reduce_sum(np.array([number], np.int64))[0])}"
    try:
        if cluster.rank == 0:
            path.mkdir(parents=True, exist_ok=True)
            folder.clean(path)
            probe.touch(exist_ok=False)
    except OSError as error:
        raise UserError(
            f"--checkpoint_dir={path}: cannot be written: {error.strerror}: {error.filename}"
        ) from error
    cluster.all_reduce_sum([1.0])
    seen = probe.exists()
    everyone = cluster.all_reduce_sum([float(seen)])[0]
    if cluster.rank == 0:
        probe.unlink(missing_ok=True)
    if everyone < cluster.size:
        raise UserError(
            f"--checkpoint_dir={path}: {cluster.size - int(everyone)} of {cluster.size} ranks do "
            "not see what rank 0 writes there: it must be on storage that all ranks share"
        )


def facts(flags: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the manifest says of the run.

    Args:
        flags: {name: value} of the job's settings.
        data: what identifies the data.
    """
    return {
        "flags": flags,
        "data": data,
        "versions": environment.versions(),
    }
