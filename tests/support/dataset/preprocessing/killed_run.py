"""Preprocessing runs that kill themselves: python -m ...killed_run FOLDER RUN...

RUN is `[memory|sql]:JOBS:POINT:COUNT`. Each runs in a forked process, one after the other, and gets
SIGKILL at the COUNT-th call of POINT (`Class.method` or `module.function` of
dataset.preprocessing), before the call does anything, as from the OOM killer. Prints a JSON list of
[exit status, output] for each.
"""

import importlib
import json
import os
import pathlib
import signal
import sys

from dataset.preprocessing import direct_counting, parts, pipeline
from tests.support.dataset.preprocessing.fixtures import run_options

#: Small parts, so that a run has several of them.
PART_BYTES = 20000
SPLIT = {"train_days": (0, 1), "test_day": 2, "write_validation": True, "max_rejects": 0.5}


def kill_at(point, count):
    """Replaces the function at `point` with one that kills this process at its call `count`."""
    *names, function = point.split(".")
    owner = importlib.import_module("dataset.preprocessing." + names[0])
    for name in names[1:]:
        owner = getattr(owner, name)
    original = getattr(owner, function)
    calls = [0]

    def dying(*arguments, **keywords):
        calls[0] += 1
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)

    setattr(owner, function, dying)


def run_until_killed(folder, counting, jobs, point, count, output):
    """Runs on the days in `folder`, writing log lines to the file `output`."""
    if counting == "sql":
        direct_counting.columns_at_once = lambda *_: (0, 0)
    parts.PART_BYTES = PART_BYTES
    os.fsync = lambda descriptor: None
    kill_at(point, int(count))
    with open(output, "w", buffering=1) as file:
        options = run_options(pathlib.Path(folder), jobs=int(jobs), **SPLIT)
        pipeline.run(options, log=lambda line: file.write(line + "\n"))


def main(folder, *runs):
    """Forks a process for each run."""
    results = []
    for number, run in enumerate(runs):
        output = pathlib.Path(folder) / f"output-{number}"
        child = os.fork()
        if child == 0:
            try:
                run_until_killed(folder, *run.split(":"), output)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        results.append([os.waitstatus_to_exitcode(status), output.read_text()])
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
