"""A preprocessing run that kills itself: python -m ...killed_run FOLDER POINT COUNT [KERNELS JOBS].

POINT is `Class.method` or `module.function` of dataset.preprocessing; the process gets SIGKILL when
it is called for the COUNT-th time (before it does anything), as from the OOM killer.
"""

import functools
import importlib
import os
import pathlib
import signal
import sys

from dataset.preprocessing import native, parts, pipeline
from tests.support.dataset.preprocessing.fixtures import run_options

#: Small parts, so that a run has several of them.
PART_BYTES = 20000
SPLIT = {"train_days": (0, 1), "test_day": 2, "write_validation": True, "max_rejects": 0.5}


def kill_at(point, count):
    """Replaces the function at `point` by one that kills this process at its call `count`."""
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


def main(folder, point, count, kernels="native", jobs=1):
    """Runs until killed; with `kernels` "none" as where these are not built."""
    if kernels == "none":
        native.load = lambda: None
    parts.PART_BYTES = PART_BYTES
    os.fsync = lambda descriptor: None
    kill_at(point, int(count))
    # What is still in a buffer dies with the process.
    say = functools.partial(print, flush=True)
    pipeline.run(run_options(pathlib.Path(folder), jobs=int(jobs), **SPLIT), say=say)


if __name__ == "__main__":
    main(*sys.argv[1:])
