"""Unit tests start no process: one that does fails where it starts it."""

import multiprocessing.process
import sys

import pytest

_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_running = None


def _refuse(event, arguments=()):
    # Its first import on a machine has Matplotlib list the fonts, in whichever test that happens.
    if arguments[:1] == ("fc-list",):
        return
    if _running and event in _STARTS:
        raise AssertionError(f"{_running} starts a process ({event}): move it to tests/e2e")


sys.addaudithook(_refuse)


@pytest.fixture(autouse=True)
def _no_processes(request, monkeypatch):
    """Refuses processes; multiprocessing starts its own without an audit event."""
    global _running
    _running = request.node.nodeid
    monkeypatch.setattr(
        multiprocessing.process.BaseProcess, "start", lambda self: _refuse("os.fork")
    )
    yield
    _running = None
