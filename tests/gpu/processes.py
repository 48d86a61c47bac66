"""Runs each group in separate processes and reads their reports.

A crash or a hang fails only the entry that was running: the group is restarted after that entry.
Nothing runs past the deadline.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

from tests.gpu import build

# Seconds without a new line in the report that count as a hang; four times the slowest entry.
REPORT_TIMEOUT = 100
MAX_STARTS = 6
MODULE = "tests.gpu.group"


class GroupRunner:
    """Runs one group, in as many processes as its crashes require.

    Args:
        group: name of the group.
        options: further command-line arguments of ``tests.gpu.group``.
        report: file that its processes write to.
        deadline: ``time.monotonic()`` at which the group is stopped.
        threads: threads that each process may use for NumPy.
        publish: called with each result.
    """

    def __init__(self, group, options, report, deadline, threads, publish):
        self.group, self.report, self.deadline, self.publish = group, report, deadline, publish
        self.prefix = []  # command that runs Python, such as compute-sanitizer
        self.timeout = REPORT_TIMEOUT
        self._options, self._threads = options, str(threads)
        self._names, self._running, self._started, self._offset = None, None, 0, 0
        self._hangs, self._failures = 0, 0

    def run(self):
        """Runs the group and returns when every entry has a result."""
        problem = "no time left before the start"
        for _ in range(MAX_STARTS):
            if time.monotonic() >= self.deadline:
                break
            problem = self._one_process()
            if self._running is not None:
                self._fail(self._running, problem or "the process ended without a result")
                self._running = None
            if self._names is None or self._started >= len(self._names) or self._hangs > 1:
                break
        if self._names is None:
            self._fail(self.group, problem or "the process ended without listing its entries")
        elif self._started < len(self._names):
            for name in self._names[self._started :]:
                self._fail(name, f"not run: {problem or 'the group ended early'}")
        elif problem is not None and self._failures == 0:
            self._fail(self.group, problem)  # the sanitizer found an error that no check found
        self.report.unlink(missing_ok=True)

    def _publish(self, result):
        self._failures += not result["passed"]
        self.publish(result)

    def _fail(self, name, error):
        self._publish({"name": name, "passed": False, "error": error})

    def _one_process(self):
        """Runs the entries that have not been started; returns a problem, or None."""
        # A new file: a crash may have left an incomplete line.
        self.report.unlink(missing_ok=True)
        self._offset = 0
        command = [
            *self.prefix, sys.executable, "-m", MODULE, "--group", self.group,
            "--report", str(self.report), "--skip", str(self._started), *self._options,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = self._threads
        process = subprocess.Popen(command, cwd=build.ROOT, env=environment, start_new_session=True)
        last_line = time.monotonic()
        while True:
            ended = process.poll() is not None  # first, so that no line follows the last read
            if self._read_report():
                last_line = time.monotonic()
            if ended:
                code = process.returncode
                return None if code == 0 else f"the process ended with code {code}"
            now = time.monotonic()
            if now > self.deadline:
                _kill(process)
                return "the time limit of the run was reached"
            if now - last_line > self.timeout:
                _kill(process)
                self._hangs += 1
                return f"hang: no report line for {self.timeout} s"
            time.sleep(0.1)

    def _read_report(self):
        """Reads the new complete lines of the report; returns whether there were any."""
        if not self.report.exists():
            return False
        with open(self.report, "rb") as file:
            file.seek(self._offset)
            text = file.read()
        lines = text[: text.rfind(b"\n") + 1]
        self._offset += len(lines)
        for line in map(json.loads, lines.splitlines()):
            if "names" in line:
                self._names = line["names"]
            elif "begin" in line:
                self._running = line["begin"]
                self._started += 1
            else:
                self._running = None
                self._publish(line["result"])
        return bool(lines)


def _kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    # The driver may block a process forever.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
