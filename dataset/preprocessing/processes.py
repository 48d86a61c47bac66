"""Runs tasks in worker processes of this machine, and follows their progress."""

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
    """Yields (index, function(*task)) for each task, as they finish.

    Args:
        function: importable by name.
        tasks: list of argument tuples.
        jobs: processes at a time; 1 runs the tasks in this process.
        show: called now and then with (bytes, rows) that the tasks have counted so far.
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
        # A few tasks are handed out ahead, not all: thousands of results would wait in memory.
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
        raise PreprocessError(
            "a worker process was killed (out of memory? give fewer --jobs); "
            "what is finished is kept: run the same command again"
        ) from error
    finally:
        # After an error, or where the caller takes no more; otherwise no task is left.
        counters[2] = 1
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(counters, parent):
    # A worker must not outlive a killed parent and go on writing.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    progress.share(counters)
