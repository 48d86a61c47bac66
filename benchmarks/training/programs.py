"""The measured programs: processes that keep their model and are stopped between requests.

An idle program is stopped (SIGSTOP), so that its threads neither spin nor read ahead.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TextIO

from benchmarks.training import reaper

ROOT = pathlib.Path(__file__).resolve().parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")


class ProgramError(RuntimeError):
    """A program ended, or reported an error."""


class TooSlowError(ProgramError):
    """A program did not answer in time."""


class Programs:
    """Starts programs; its context ends them all.

    Args:
        timeout: seconds within which a program must start or answer.
    """

    def __init__(self, timeout: float = 600.0):
        self._timeout = timeout
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Programs:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self._folder = pathlib.Path(folder)
        self._reaper = subprocess.Popen(
            [sys.executable, reaper.__file__], stdin=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self._reaper.stdin is not None
        self._reaper_input = self._reaper.stdin
        self._stack.callback(self._reaper.wait)
        self._stack.callback(self._release_reaper)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._stack.__exit__(kind, error, traceback)

    def _release_reaper(self) -> None:
        # The reaper may have been killed.
        with contextlib.suppress(BrokenPipeError):
            self._reaper_input.close()

    def start(
        self, name: str, command: Sequence[str], ranks: int = 1, **environment: str
    ) -> Program:
        """Starts a program, waits until all its processes are ready, and stops it.

        Args:
            name: the program's name.
            command: command line; "SOCKET" is replaced by the path of the socket.
            ranks: number of processes that connect.
            **environment: additional environment variables.

        Raises:
            ProgramError: the program ended; the message has its last output.
        """
        number = len(list(self._folder.glob("*.log")))
        address, log = (str(self._folder / f"{number}.{end}") for end in ("socket", "log"))
        begin = time.perf_counter()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, open(log, "wb") as out:
            listener.bind(address)
            listener.listen(ranks)
            process = subprocess.Popen(
                [address if part == "SOCKET" else part for part in command], cwd=ROOT,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                env={**os.environ, **environment}, start_new_session=True,
            )  # fmt: skip
            program = Program(name, process, log, self._timeout, self._register)
            self._stack.callback(program.end)
            for _ in range(ranks):
                program.accept(listener)
        program.stop()
        program.start_seconds = time.perf_counter() - begin
        return program

    def _register(self, number: int) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._reaper_input.write(f"{number}\n")
            self._reaper_input.flush()


class Program:
    """One program, created by `Programs.start`.

    Attributes:
        name: the program's name.
        facts: the facts reported by rank 0.
        start_seconds: seconds until the program was ready.
    """

    def __init__(
        self, name: str, process: subprocess.Popen, log: str, timeout: float,
        register: Callable[[int], None],
    ):  # fmt: skip
        self.name, self.start_seconds = name, 0.0
        self.facts: dict[str, Any] = {}
        self._process, self._log, self._timeout, self._register = process, log, timeout, register
        self._connections: list[tuple[socket.socket, TextIO]] = []
        self._numbers: list[int] = []
        register(process.pid)

    def accept(self, listener: socket.socket) -> None:
        """Accepts the connection of one process."""
        self._wait_for(listener)
        connection, _ = listener.accept()
        lines = connection.makefile("rw", encoding="utf-8")
        self._connections.append((connection, lines))
        facts = self._receive(connection, lines)
        self._numbers.append(facts.pop("pid"))
        self._register(self._numbers[-1])
        if facts["rank"] == 0:
            self.facts = facts

    def ask(
        self, do: str, *, timeout: float | None = None, **arguments: Any
    ) -> tuple[list[dict[str, Any]], float]:
        """Sends a request to all processes of the program and waits for their answers.

        Returns:
            (answers in the order of connection, number of cores busy with other load).

        Raises:
            ProgramError: the program failed or ended.
            TooSlowError: the program did not answer in time.
        """
        self._signal(signal.SIGCONT)
        begin, busy, own = time.perf_counter(), _busy_seconds(), self._own_seconds()
        for _, lines in self._connections:
            lines.write(json.dumps({"do": do, **arguments}) + "\n")
            lines.flush()
        answers = [
            self._receive(connection, lines, timeout) for connection, lines in self._connections
        ]
        own = self._own_seconds() - own
        seconds, busy = time.perf_counter() - begin, _busy_seconds() - busy
        self.stop()
        return answers, max(0.0, (busy - own) / seconds)

    def stop(self) -> None:
        """Stops the program's processes."""
        self._signal(signal.SIGSTOP)

    def end(self) -> None:
        """Ends the program."""
        for connection, lines in self._connections:
            with contextlib.suppress(OSError):
                lines.close()
            connection.close()
        for number in {*self._numbers, self._process.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self._process.wait()
        for number in {*self._numbers, self._process.pid}:
            self._register(-number)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._numbers:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                raise self._error("ended") from None

    def _own_seconds(self) -> float:
        return sum(_seconds_of(number) for number in self._numbers)

    def _receive(
        self, connection: socket.socket, lines: TextIO, timeout: float | None = None
    ) -> dict[str, Any]:
        self._wait_for(connection, timeout)
        line = lines.readline()
        if not line:
            raise self._error("ended")
        answer = json.loads(line)
        if "error" in answer:
            raise self._error(f"failed:\n{answer['error']}")
        return answer

    def _wait_for(self, connection: socket.socket, timeout: float | None = None) -> None:
        timeout = self._timeout if timeout is None else timeout
        deadline = time.perf_counter() + timeout
        while not select.select([connection], [], [], 0.2)[0]:
            if self._process.poll() is not None:
                raise self._error(f"ended with status {self._process.returncode}")
            if time.perf_counter() > deadline:
                raise self._error(f"did not answer within {timeout:.0f} s", TooSlowError)

    def _error(self, what: str, kind: type[ProgramError] = ProgramError) -> ProgramError:
        with open(self._log, encoding="utf-8", errors="replace") as log:
            last = "".join(log.readlines()[-30:])
        return kind(f"{self.name} {what}; its last output:\n{last}")


def _busy_seconds() -> float:
    """Returns the busy seconds of all cores of this machine since boot."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _, _, interrupt, soft, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + interrupt + soft) / _TICKS


def _seconds_of(number: int) -> float:
    """Returns a process' processor seconds."""
    with open(f"/proc/{number}/stat", encoding="utf-8") as stat:
        # User and system time are fields 14 and 15; field 2, the name, may contain blanks and ")".
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
