"""The notes by which rank 0 learns what the other ranks have written.

A note lies in the checkpoint's folder while it is being written: no message between ranks, and a
folder that not all ranks see shows itself.
"""

import contextlib
import time

from storage.atomic import encode_json, replacing
from storage.structured import StructureError, check_shape, read_json
from training.checkpoint import shapes
from training.runtime.errors import UserError

_POLL_SECONDS = 0.05
# About 400 bytes a file.
_MOST_BYTES = 64 << 20


def note_path(partial, rank):
    """Returns where a rank's note lies."""
    return partial / f".rank-{rank}.json"


def leave_note(partial, rank, note):
    """Writes a rank's note: a JSON value that `collect_notes` gives to rank 0."""
    path = note_path(partial, rank)
    with replacing(path, path.with_suffix(".new")) as file:
        file.write(encode_json(note, indent=None).encode())


def leave_failure(partial, rank, text):
    """Writes in place of a rank's note why there is none; removes what the rank has written.

    Raises:
        OSError: that cannot be written either.
    """
    # A note needs room too.
    for path in partial.glob(f"*.rank_{rank}.npy"):
        path.unlink()
    leave_note(partial, rank, {"failure": text})


def collect_notes(partial, ranks, patience, stopping):
    """Waits for the notes of all ranks and returns them.

    Raises:
        UserError: a rank has failed, has written nothing for `patience` seconds, or has left
            something else than its note.
    """
    deadline = time.monotonic() + patience
    notes, last = {}, 0
    while len(notes) < ranks:
        for rank in range(ranks):
            if rank not in notes and note_path(partial, rank).exists():
                notes[rank] = _read(note_path(partial, rank))
                if "failure" in notes[rank]:
                    raise UserError(f"rank {rank}: {notes[rank]['failure']}")
        written = _bytes_in(partial)
        if written > last:
            # A slow disk is no reason to give up, as long as bytes arrive.
            deadline, last = time.monotonic() + patience, written
        if len(notes) < ranks:
            if time.monotonic() > deadline or stopping.is_set():
                missing = sorted(set(range(ranks)) - set(notes))
                raise UserError(
                    f"checkpoint {partial}: rank {missing[0]} has not written its part for "
                    f"{patience} s"
                )
            time.sleep(_POLL_SECONDS)
    return [notes[rank] for rank in range(ranks)]


def _read(path):
    try:
        note = read_json(path, dict, max_bytes=_MOST_BYTES)
        check_shape(note, str(path), shapes.Failure if "failure" in note else shapes.Note)
    except StructureError as error:
        raise UserError(f"note of a rank: {error}") from error
    return note


def _bytes_in(folder):
    total = 0
    for path in folder.iterdir():
        # Another rank may have renamed it since.
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
