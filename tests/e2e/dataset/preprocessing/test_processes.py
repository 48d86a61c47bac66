"""Tasks in worker processes: results, progress, and how tasks end after an error or Ctrl-C."""

import time

import pytest

from dataset.preprocessing import processes, progress


def slow_task(folder, number):
    """Works for a minute in small steps; number 0 fails immediately."""
    (folder / f"begun-{number}").touch()
    if number == 0:
        raise ZeroDivisionError
    for _ in range(6000):
        progress.advance(1, 2)
        time.sleep(0.01)
    (folder / f"done-{number}").touch()


def quick_task(number):
    """Counts one row."""
    progress.advance(10, 1)
    return number * number


@pytest.mark.parametrize("jobs", [1, 3])
def test_run_yields_every_result_once(jobs):
    shown = []
    found = processes.run(quick_task, [(n,) for n in range(7)], jobs, lambda *s: shown.append(s))
    assert sorted(found) == [(n, n * n) for n in range(7)]
    if jobs == 1:
        assert shown[-1] == (70, 7)


def test_run_stops_running_tasks_after_an_error(tmp_path):
    tasks = [(tmp_path, number) for number in (1, 2, 0, 3)]
    with pytest.raises(ZeroDivisionError):
        list(processes.run(slow_task, tasks, 3, lambda *_: None))
    assert (tmp_path / "begun-0").exists() and not list(tmp_path.glob("done-*"))


def test_run_stops_running_tasks_after_ctrl_c(tmp_path):
    tasks = [(tmp_path, number) for number in (1, 2, 3, 4)]

    def enough(*_):
        if len(list(tmp_path.glob("begun-*"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(processes.run(slow_task, tasks, 2, enough))
    assert not list(tmp_path.glob("done-*"))
