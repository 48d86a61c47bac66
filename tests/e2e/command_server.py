"""Runs the project's commands in forks of one process that has already imported TensorFlow.

A new Python needs four seconds of processor time to import TensorFlow. A fork needs none and is as
isolated: it has its own memory, signals and exit status.

    python -m tests.e2e.command_server   reads one JSON request per line, answers each with one line
"""

import contextlib
import json
import os
import pathlib
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from typing import NamedTuple

from tests.support.paths import ROOT

# Stops a command that reads an endless device before it takes the machine's memory.
_MEMORY_BYTES = 12 << 30
_FILE_BYTES = 1 << 30
_SHOWN_BYTES = 1 << 16


class Result(NamedTuple):
    """How a command ended.

    Attributes:
        code: its exit status, or minus the signal that ended it, as in `subprocess`.
        out: its standard output.
        err: its standard error.
        timed_out: it was killed after the timeout.
        seconds: its running time.
    """

    code: int
    out: str
    err: str
    timed_out: bool
    seconds: float


class CommandServer:
    """Client of the server: a context manager."""

    def __enter__(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HOROVOD_")}
        path = f"{pathlib.Path(sys.executable).parent}:{environment['PATH']}"
        environment.update(PATH=path, PYTHONPATH=str(ROOT), TF_CPP_MIN_LOG_LEVEL="3")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.command_server"], cwd=ROOT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, program, *arguments, cwd, timeout=100.0, **environment):
        """Runs a script such as "main.py", or a module such as "-m dataset.validate".

        Args:
            program: the script or module.
            arguments: its command line.
            cwd: its working directory.
            timeout: seconds after which it and its children are killed.
            environment: additional environment variables.

        Returns:
            A `Result`.
        """
        request = [program, list(map(str, arguments)), str(cwd), timeout, environment]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Result(*json.loads(self._process.stdout.readline()))


def _serve():
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    # A fork has none of its parent's threads, so none may run here.
    import tensorflow  # noqa: F401

    from training.modes import evaluate, export, inference_benchmark, train  # noqa: F401

    for line in requests:
        answers.write(json.dumps(_run(*json.loads(line))) + "\n")
        answers.flush()


def _run(program, arguments, cwd, timeout, environment):
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            _become(program, arguments, cwd, environment, out.fileno(), err.fileno())
        status, timed_out = _wait(child, began + timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        printed = []
        for file in (out, err):
            file.seek(0)
            printed.append(file.read(_SHOWN_BYTES).decode(errors="replace"))
    return os.waitstatus_to_exitcode(status), *printed, timed_out, time.monotonic() - began


def _wait(child, deadline):
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status, False
        if time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1], True
        time.sleep(0.005)


def _become(program, arguments, cwd, environment, out, err):
    """Runs the command in this process, then exits."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.closerange(3, 256)
        os.chdir(cwd)
        os.environ.update(environment)
        for limit, most in (
            (resource.RLIMIT_AS, _MEMORY_BYTES),
            (resource.RLIMIT_FSIZE, _FILE_BYTES),
        ):
            resource.setrlimit(limit, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for stream in ("stdout", "stderr"):
            handle = 1 if stream == "stdout" else 2
            setattr(sys, stream, open(handle, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        sys.argv = [program.split()[-1], *arguments]
        code = _call(program)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _call(program):
    try:
        if program.startswith("-m "):
            runpy.run_module(program[3:], run_name="__main__", alter_sys=True)
        else:
            sys.argv[0] = str(ROOT / program)
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


if __name__ == "__main__":
    _serve()
