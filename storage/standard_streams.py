"""Standard input, output and error of a program: always open, whatever their other end does.

A reader may go away (`| head`), a disk may be full, a descriptor may have been closed by the caller
(`>&-`). A closed one is the worst: the next file that is opened gets its number, and what is
printed goes into that file.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys

#: What a shell reports of a program whose reader went away.
EXIT_BROKEN_PIPE = 141
EXIT_OUTPUT_LOST = 2


# Seconds that a job waits for a reader who has stopped reading.
PATIENCE = 5.0


class OutputError(Exception):
    """Standard output takes no more. No OSError: it is none of the files that a program works on.

    Attributes:
        exit_code: the exit code of a program that ends by it.
    """

    def __init__(self, what: str, number: int | None = None):
        super().__init__(f"standard output: {what}")
        self.exit_code = EXIT_BROKEN_PIPE if number == errno.EPIPE else EXIT_OUTPUT_LOST


def reopen_closed() -> None:
    """Opens /dev/null under the number of each standard descriptor that is closed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            else:
                os.set_inheritable(descriptor, True)


def protect() -> None:
    """Makes standard output and standard error safe to write to, under Python and under C.

    Standard error never raises: what it cannot take is dropped. Standard output raises one
    `OutputError` and drops what comes after it, or only drops once `keep_going` was called.
    """
    reopen_closed()
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _wrap(sys.stdout, 1, _raise, line_buffering=os.isatty(1))
    sys.stderr = _wrap(sys.stderr, 2, _ignore, line_buffering=True)


def keep_going(patience: float = PATIENCE) -> None:
    """From here on a lost standard output is one line on standard error, and no error.

    Nor does a reader who has stopped reading stop the program: after a wait, text is dropped until
    there is room again. (So it is under horovodrun whose own reader has gone: the pipe to it stays
    open, and nobody empties it.)

    Args:
        patience: seconds to wait for room.
    """
    for stream, failed in ((sys.stdout, _warn), (sys.stderr, _ignore)):
        raw = _raw(stream)
        if raw is not None:
            raw.failed, raw.patience = failed, patience


def lost() -> OutputError | None:
    """Returns the `OutputError` that standard output has raised, or None.

    Python swallows it where it flushes the stream by itself, at the end of a program.
    """
    raw = _raw(sys.stdout)
    return raw.lost if raw is not None and raw.failed is _raise else None


def _raw(stream):
    """Returns the `_Output` under a stream, or None where a caller has put another in its place."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, _Output) else None


class _Output(io.FileIO):
    """A descriptor of which `failed` is called with the first text that it does not take.

    All other text that it does not take is dropped.
    """

    def __init__(self, descriptor, failed):
        super().__init__(descriptor, "w", closefd=False)
        self.failed = failed
        self.patience: float | None = None
        self.lost: OutputError | None = None
        self._stalled = False

    def write(self, data):
        left = memoryview(data).cast("B")
        size = len(left)
        while len(left):
            if not self._has_room():
                self._lose("nobody reads it")
                break
            try:
                # So much never blocks where there is room.
                written = super().write(left if self.patience is None else left[: select.PIPE_BUF])
            except OSError as error:
                self._lose(error.strerror, error.errno)
                break
            # None: a pipe that does not block is full.
            left = left[written or 0 :]
            if written is None and self.patience is None:
                select.select([], [self], [])
        return size

    def _has_room(self):
        if self.patience is None:
            return True
        _, ready, _ = select.select([], [self], [], 0 if self._stalled else self.patience)
        self._stalled = not ready
        return bool(ready)

    def _lose(self, *why):
        if self.lost is None:
            self.lost = OutputError(*why)
            self.failed(self.lost)


def _raise(error):
    raise error


def _warn(error):
    print(f"warning: {error}: the job goes on without it", file=sys.stderr, flush=True)


def _ignore(error):
    pass


def _wrap(stream, descriptor, failed, line_buffering):
    """Returns a text stream over a descriptor, in encoding and buffering like an old one."""
    raw = _Output(descriptor, failed)
    unbuffered = stream is not None and stream.write_through
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=line_buffering,
        write_through=unbuffered,
    )
