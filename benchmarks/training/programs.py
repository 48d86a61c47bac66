"""The programs that take turns: processes that keep their model and stand still between turns.

A program that is not asked is stopped (SIGSTOP), so that none of its threads runs: neither those
that spin while they wait, nor those that read ahead.
"""

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

from benchmarks.training import keeper

ROOT = pathlib.Path(__file__).resolve().parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")


class ProgramError(RuntimeError):
    """A program ended, or said that it failed."""


class TooSlowError(ProgramError):
    """A program did not answer in time."""


class Programs:
    """Starts programs and ends them all when left.

    Args:
        patience: seconds that a program may take to start, or to answer.
    """

    def __init__(self, patience=600.0):
        self._patience = patience
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        self._folder = pathlib.Path(folder)
        self._keeper = subprocess.Popen(
            [sys.executable, keeper.__file__], stdin=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self._stack.callback(self._keeper.wait)
        self._stack.callback(self._let_keeper_go)
        return self

    def __exit__(self, *exception):
        return self._stack.__exit__(*exception)

    def _let_keeper_go(self):
        # Where it has been killed from outside, what it was not told yet is lost.
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.close()

    def start(self, name, command, ranks=1, **environment):
        """Starts a program and waits until all its processes have said that they are ready.

        Args:
            name: of the program.
            command: its command line; the path of a socket is put in place of "SOCKET".
            ranks: processes that will greet.
            **environment: variables of it beside this process's own.

        Returns:
            A `Program`, stopped.

        Raises:
            ProgramError: it ended instead; with the last lines that it wrote.
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
            program = Program(name, process, log, self._patience, self._keep)
            self._stack.callback(program.end)
            for _ in range(ranks):
                program.greeted(listener)
        program.stand_still()
        program.start_seconds = time.perf_counter() - begin
        return program

    def _keep(self, number):
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.write(f"{number}\n")
            self._keeper.stdin.flush()


class Program:
    """One program: made by `Programs.start`.

    Attributes:
        name: as given.
        facts: what its first process said of itself.
        start_seconds: how long it took until it was ready.
    """

    def __init__(self, name, process, log, patience, keep):
        self.name, self.facts, self.start_seconds = name, None, 0.0
        self._process, self._log, self._patience, self._keep = process, log, patience, keep
        self._conversations, self._numbers = [], []
        keep(process.pid)

    def greeted(self, listener):
        """Waits for one process's greeting."""
        self._wait_for(listener)
        connection, _ = listener.accept()
        lines = connection.makefile("rw", encoding="utf-8")
        self._conversations.append((connection, lines))
        facts = self._hear(connection, lines)
        self._numbers.append(facts.pop("pid"))
        self._keep(self._numbers[-1])
        if facts["rank"] == 0:
            self.facts = facts

    def ask(self, do, *, within=None, **arguments):
        """Lets the program do something, alone; returns every process's answer.

        Args:
            do: what.
            within: seconds that it may take, where that is less than any answer may.
            **arguments: of it.

        Returns:
            (answers, other): dictionaries in the order of greeting, and how many cores were busy
            meanwhile with anything but this program.

        Raises:
            ProgramError: it failed or ended.
            TooSlowError: it did not answer in time.
        """
        self._signal(signal.SIGCONT)
        begin, busy, own = time.perf_counter(), _busy_seconds(), self._own_seconds()
        for _, lines in self._conversations:
            lines.write(json.dumps({"do": do, **arguments}) + "\n")
            lines.flush()
        answers = [self._hear(*conversation, within) for conversation in self._conversations]
        own = self._own_seconds() - own
        seconds, busy = time.perf_counter() - begin, _busy_seconds() - busy
        self.stand_still()
        return answers, max(0.0, (busy - own) / seconds)

    def stand_still(self):
        """Stops the program's processes."""
        self._signal(signal.SIGSTOP)

    def end(self):
        """Ends the program."""
        for connection, lines in self._conversations:
            with contextlib.suppress(OSError):
                lines.close()
            connection.close()
        for number in {*self._numbers, self._process.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self._process.wait()
        for number in {*self._numbers, self._process.pid}:
            self._keep(-number)

    def _signal(self, number):
        for process in self._numbers:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                raise self._failed("has ended") from None

    def _own_seconds(self):
        return sum(_seconds_of(number) for number in self._numbers)

    def _hear(self, connection, lines, within=None):
        self._wait_for(connection, within)
        line = lines.readline()
        if not line:
            raise self._failed("has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise self._failed(f"failed:\n{answer['error']}")
        return answer

    def _wait_for(self, connection, within=None):
        patience = self._patience if within is None else within
        until = time.perf_counter() + patience
        while not select.select([connection], [], [], 0.2)[0]:
            if self._process.poll() is not None:
                raise self._failed(f"has ended with status {self._process.returncode}")
            if time.perf_counter() > until:
                raise self._failed(f"has not answered for {patience:.0f} s", TooSlowError)

    def _failed(self, what, kind=ProgramError):
        with open(self._log, encoding="utf-8", errors="replace") as log:
            last = "".join(log.readlines()[-30:])
        return kind(f"{self.name} {what}\nthe end of what it wrote:\n{last}")


def _busy_seconds():
    """Returns the seconds that this machine's cores have worked so far."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _, _, interrupt, soft, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + interrupt + soft) / _TICKS


def _seconds_of(number):
    """Returns the processor seconds of a process so far."""
    with open(f"/proc/{number}/stat", encoding="utf-8") as stat:
        # Behind the name, which may hold anything: user and system time are fields 14 and 15.
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
