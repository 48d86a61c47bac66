"""Keeps standard input, output and error usable, whatever happens at their other end.

A reader may exit (`| head`), a disk may be full, or the caller may have closed a descriptor
(`>&-`). A closed descriptor is the most dangerous case: the next file that the program opens gets
its number, and printed text goes into that file.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys

#: Exit code that a shell reports for a program whose reader exited.
EXIT_BROKEN_PIPE = 141
EXIT_OUTPUT_LOST = 2
#: Seconds that a job waits for a reader that has stopped reading.
WRITE_TIMEOUT = 5.0


class OutputError(Exception):
    """Standard output cannot be written. Not an OSError: those concern the program's own files.

    Attributes:
        exit_code: exit code of a program that this error ends.
    """

    def __init__(self, reason: str, number: int | None = None):
        super().__init__(f"standard output: {reason}")
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
    """Makes standard output and standard error safe to write to, from Python and from C.

    Standard error drops what cannot be written. Standard output raises one `OutputError` and drops
    everything after it; after `keep_going` it only drops.
    """
    reopen_closed()
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _wrap(sys.stdout, 1, _raise, line_buffering=os.isatty(1))
    sys.stderr = _wrap(sys.stderr, 2, _ignore, line_buffering=True)


def keep_going(timeout: float = WRITE_TIMEOUT) -> None:
    """From now on, a failed standard output only prints one warning on standard error.

    A reader that stops reading does not block the program either: after `timeout`, text is dropped
    until the pipe is writable again. (This happens under a horovodrun whose own reader has exited:
    the pipe stays open and fills up.)

    Args:
        timeout: seconds to wait until the pipe is writable.
    """
    for stream, on_error in ((sys.stdout, _warn), (sys.stderr, _ignore)):
        raw = _raw(stream)
        if raw is not None:
            raw.on_error, raw.timeout = on_error, timeout


def output_error() -> OutputError | None:
    """Returns the `OutputError` that standard output has raised, or None.

    Python swallows this error when it flushes the stream at the end of a program.
    """
    raw = _raw(sys.stdout)
    return raw.error if raw is not None and raw.on_error is _raise else None


def _raw(stream):
    """Returns the `_Output` under a stream, or None if a caller has replaced the stream."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, _Output) else None


class _Output(io.FileIO):
    """A descriptor whose first failed write calls `on_error`; later failures drop their text."""

    def __init__(self, descriptor, on_error):
        super().__init__(descriptor, "w", closefd=False)
        self.on_error = on_error
        self.timeout: float | None = None
        self.error: OutputError | None = None
        self._stalled = False

    def write(self, data):
        rest = memoryview(data).cast("B")
        size = len(rest)
        while len(rest):
            if not self._wait_writable():
                self._fail("nobody reads it")
                break
            try:
                # A write of PIPE_BUF bytes never blocks on a writable pipe.
                written = super().write(rest if self.timeout is None else rest[: select.PIPE_BUF])
            except OSError as error:
                self._fail(error.strerror, error.errno)
                break
            # None: a nonblocking pipe is full.
            rest = rest[written or 0 :]
            if written is None and self.timeout is None:
                select.select([], [self], [])
        return size

    def _wait_writable(self):
        if self.timeout is None:
            return True
        _, ready, _ = select.select([], [self], [], 0 if self._stalled else self.timeout)
        self._stalled = not ready
        return bool(ready)

    def _fail(self, *reason):
        if self.error is None:
            self.error = OutputError(*reason)
            self.on_error(self.error)


def _raise(error):
    raise error


def _warn(error):
    print(f"warning: {error}: the job continues without it", file=sys.stderr, flush=True)


def _ignore(error):
    pass


def _wrap(stream, descriptor, on_error, line_buffering):
    """Returns a text stream over a descriptor, with the encoding and buffering of `stream`."""
    raw = _Output(descriptor, on_error)
    unbuffered = stream is not None and stream.write_through
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=line_buffering,
        write_through=unbuffered,
    )
