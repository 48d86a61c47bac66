"""The measured programs: processes that keep their model and are stopped between requests.

An idle program is stopped (SIGSTOP), so that none of its threads runs: neither those that spin
while they wait, nor those that read ahead.
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
    """Starts programs and ends them all when left.

    Args:
        timeout: seconds in which a program must start, or answer.
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
        # If it was killed from outside, unsent lines are lost.
        with contextlib.suppress(BrokenPipeError):
            self._reaper_input.close()

    def start(
        self, name: str, command: Sequence[str], ranks: int = 1, **environment: str
    ) -> Program:
        """Starts a program and waits until all its processes have reported that they are ready.

        Args:
            name: of the program.
            command: its command line; the path of a socket is put in place of "SOCKET".
            ranks: number of its processes that connect.
            **environment: environment variables besides this process's own.

        Returns:
            A `Program`, stopped.

        Raises:
            ProgramError: it ended instead; the message has its last output.
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
            program = Program(name, process, log, self._timeout, self._keep)
            self._stack.callback(program.end)
            for _ in range(ranks):
                program.accept(listener)
        program.stop()
        program.start_seconds = time.perf_counter() - begin
        return program

    def _keep(self, number: int) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._reaper_input.write(f"{number}\n")
            self._reaper_input.flush()


class Program:
    """One program: made by `Programs.start`.

    Attributes:
        name: as given.
        facts: the facts that its first process reported.
        start_seconds: seconds until it was ready.
    """

    def __init__(
        self,
        name: str,
        process: subprocess.Popen,
        log: str,
        timeout: float,
        keep: Callable[[int], None],
    ):
        self.name, self.start_seconds = name, 0.0
        self.facts: dict[str, Any] = {}
        self._process, self._log, self._timeout, self._keep = process, log, timeout, keep
        self._connections: list[tuple[socket.socket, TextIO]] = []
        self._numbers: list[int] = []
        keep(process.pid)

    def accept(self, listener: socket.socket) -> None:
        """Waits until one process has connected."""
        self._wait_for(listener)
        connection, _ = listener.accept()
        lines = connection.makefile("rw", encoding="utf-8")
        self._connections.append((connection, lines))
        facts = self._receive(connection, lines)
        self._numbers.append(facts.pop("pid"))
        self._keep(self._numbers[-1])
        if facts["rank"] == 0:
            self.facts = facts

    def ask(
        self, do: str, *, within: float | None = None, **arguments: Any
    ) -> tuple[list[dict[str, Any]], float]:
        """Sends a request while all other programs are stopped; returns every process's answer.

        Args:
            do: name of the request.
            within: timeout in seconds, if shorter than the usual one.
            **arguments: of the request.

        Returns:
            (answers, other): dictionaries in the order of connection, and the number of cores that
            were meanwhile busy with anything but this program.

        Raises:
            ProgramError: it failed or ended.
            TooSlowError: it did not answer in time.
        """
        self._signal(signal.SIGCONT)
        begin, busy, own = time.perf_counter(), _busy_seconds(), self._own_seconds()
        for _, lines in self._connections:
            lines.write(json.dumps({"do": do, **arguments}) + "\n")
            lines.flush()
        answers = [
            self._receive(connection, lines, within) for connection, lines in self._connections
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
            self._keep(-number)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._numbers:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                raise self._failed("has ended") from None

    def _own_seconds(self) -> float:
        return sum(_seconds_of(number) for number in self._numbers)

    def _receive(
        self, connection: socket.socket, lines: TextIO, within: float | None = None
    ) -> dict[str, Any]:
        self._wait_for(connection, within)
        line = lines.readline()
        if not line:
            raise self._failed("has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise self._failed(f"failed:\n{answer['error']}")
        return answer

    def _wait_for(self, connection: socket.socket, within: float | None = None) -> None:
        timeout = self._timeout if within is None else within
        until = time.perf_counter() + timeout
        while not select.select([connection], [], [], 0.2)[0]:
            if self._process.poll() is not None:
                raise self._failed(f"has ended with status {self._process.returncode}")
            if time.perf_counter() > until:
                raise self._failed(f"has not answered for {timeout:.0f} s", TooSlowError)

    def _failed(self, what: str, kind: type[ProgramError] = ProgramError) -> ProgramError:
        with open(self._log, encoding="utf-8", errors="replace") as log:
            last = "".join(log.readlines()[-30:])
        return kind(f"{self.name} {what}\nits last output:\n{last}")


def _busy_seconds() -> float:
    """Returns the seconds that this machine's cores have worked so far."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _, _, interrupt, soft, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + interrupt + soft) / _TICKS


def _seconds_of(number: int) -> float:
    """Returns the processor seconds of a process so far."""
    with open(f"/proc/{number}/stat", encoding="utf-8") as stat:
        # Behind the name, which may hold anything: user and system time are fields 14 and 15.
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
