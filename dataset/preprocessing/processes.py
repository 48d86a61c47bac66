"""Runs tasks in worker processes on this machine, and shows their progress."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.process
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dataset.preprocessing import progress
from dataset.preprocessing.errors import PreprocessError

_PR_SET_PDEATHSIG = 1


def run(
    function: Callable[..., Any],
    tasks: Sequence[tuple],
    jobs: int,
    show: Callable[[int, int], None],
) -> Iterator[tuple[int, Any]]:
    """Yields (index, function(*task)) for each task, in the order in which they finish.

    Args:
        function: importable by name.
        tasks: tuples of arguments.
        jobs: number of processes; 1 runs the tasks in this process.
        show: called repeatedly with the (bytes, rows) that all tasks have counted so far.

    Raises:
        PreprocessError: a worker process was killed.
    """
    if not tasks:
        return
    spawn = multiprocessing.get_context("spawn")
    counters = spawn.Array("q", 3)
    if jobs == 1:
        progress.share(counters)
        try:
            for index, task in enumerate(tasks):
                yield index, function(*task)
                show(*counters[:2])
        finally:
            progress.share(None)
        return
    pool = concurrent.futures.ProcessPoolExecutor(
        min(jobs, len(tasks)), spawn, initializer=_begin, initargs=(counters, os.getpid())
    )
    try:
        # Submits only a few tasks ahead, since thousands of results would fill the memory.
        waiting = iter(enumerate(tasks))
        pending = {}

        def submit():
            for index, task in waiting:
                pending[pool.submit(function, *task)] = index
                return

        for _ in range(2 * jobs):
            submit()
        while pending:
            done, _ = concurrent.futures.wait(
                pending, timeout=0.5, return_when=concurrent.futures.FIRST_COMPLETED
            )
            show(*counters[:2])
            for future in done:
                index = pending.pop(future)
                submit()
                yield index, future.result()
    except concurrent.futures.process.BrokenProcessPool as error:
        problem = "a worker process was killed (out of memory?)"
        remedy = "finished stages are kept: run the same command again, with fewer jobs"
        raise PreprocessError.of_flag("jobs", jobs, f"{problem}; {remedy}") from error
    finally:
        # After an error, or if the caller stops early, tells the running tasks to stop.
        counters[2] = 1
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(counters, parent):
    # A worker must not continue to write after its parent was killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    progress.share(counters)
