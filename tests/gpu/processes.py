"""Runs groups in processes of their own and follows what they report.

A crash or a hang costs the entry that was running, not the others: the group is started again
behind it. Nothing runs past the deadline.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

from tests.gpu import build

# Longer without news is a hang. The slowest entry takes a quarter of it.
SILENCE_SECONDS = 100
STARTS = 6
MODULE = "tests.gpu.group"


class Follower:
    """Follows one group from its first process to its last.

    Args:
        group: Its name.
        options: More command-line arguments of ``tests.gpu.group``.
        report: File that its processes write to.
        deadline: ``time.monotonic()`` at which it must have ended.
        threads: Threads that each process may use for NumPy.
        publish: Called with each result.
    """

    def __init__(self, group, options, report, deadline, threads, publish):
        self.group, self.report, self.deadline, self.publish = group, report, deadline, publish
        # What runs before Python: a tool such as compute-sanitizer.
        self.prefix = []
        self.silence = SILENCE_SECONDS
        self._options, self._threads = options, str(threads)
        self._names, self._running, self._begun, self._offset = None, None, 0, 0
        self._hangs, self._failures = 0, 0

    def run(self):
        """Runs the group; returns when every entry has a result."""
        problem = "there was no time left"
        for _ in range(STARTS):
            if time.monotonic() >= self.deadline:
                break
            problem = self._one_process()
            if self._running is not None:
                self._fail(self._running, problem or "the process ended without a result")
                self._running = None
            if self._names is None or self._begun >= len(self._names) or self._hangs > 1:
                break
        if self._names is None:
            self._fail(self.group, problem or "the process ended without a word")
        elif self._begun < len(self._names):
            for name in self._names[self._begun :]:
                self._fail(name, f"not run: {problem or 'the group ended early'}")
        elif problem is not None and self._failures == 0:
            self._fail(self.group, problem)  # a tool around it found what the checks did not
        self.report.unlink(missing_ok=True)

    def _publish(self, result):
        self._failures += not result["passed"]
        self.publish(result)

    def _fail(self, name, error):
        self._publish({"name": name, "passed": False, "error": error})

    def _one_process(self):
        """Starts the group behind what has begun; returns what went wrong, or None."""
        # A file of its own: a crash may have left half a line.
        self.report.unlink(missing_ok=True)
        self._offset = 0
        command = [
            *self.prefix, sys.executable, "-m", MODULE, "--group", self.group,
            "--report", str(self.report), "--skip", str(self._begun), *self._options,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = self._threads
        process = subprocess.Popen(command, cwd=build.ROOT, env=environment, start_new_session=True)
        heard = time.monotonic()
        while True:
            ended = process.poll() is not None  # asked first: no news can follow it
            if self._news():
                heard = time.monotonic()
            if ended:
                code = process.returncode
                return None if code == 0 else f"the process ended with code {code}"
            now = time.monotonic()
            if now > self.deadline:
                _kill(process)
                return "the time that the whole run may take was over"
            if now - heard > self.silence:
                _kill(process)
                self._hangs += 1
                return f"a hang: no news for {self.silence} seconds"
            time.sleep(0.1)

    def _news(self):
        """Reads the lines that were added to the report; tells whether there were any."""
        if not self.report.exists():
            return False
        with open(self.report, "rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in map(json.loads, whole.splitlines()):
            if "names" in line:
                self._names = line["names"]
            elif "begin" in line:
                self._running = line["begin"]
                self._begun += 1
            else:
                self._running = None
                self._publish(line["result"])
        return bool(whole)


def _kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    # The driver may hold a process for good: there is no more to do then.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
