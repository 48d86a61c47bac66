"""Detection of a lost rank from the last states of all ranks, with a simulated clock."""

import types

import pytest

from training.runtime import rank_states
from training.runtime.rank_states import RankStates

TIMEOUT = 10


class Job:
    """Three ranks whose states reach a `RankStates` at time `now`."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        clock = types.SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(rank_states, "time", clock)
        self.states = RankStates(TIMEOUT)

    def send(self, rank, count, *, idle=0.0, paused=False, leaving=False):
        state = {"rank": rank, "pid": 100 + rank, "host": "node", "activity": f"step {count}",
                 "count": count, "idle": idle, "paused": paused, "leaving": leaving}  # fmt: skip
        self.states.update(rank, state)


@pytest.fixture
def job(monkeypatch):
    return Job(monkeypatch)


def test_ranks_that_make_progress_are_not_lost(job):
    for job.now in range(0, 10 * TIMEOUT, 2):
        for rank in range(3):
            job.send(rank, job.now + rank, idle=1.5)
        assert job.states.lost() is None


@pytest.mark.parametrize("stuck", range(3))
def test_the_rank_behind_the_others_is_stuck(job, stuck):
    for idle in (TIMEOUT - 1, TIMEOUT + 1):
        for rank in range(3):
            job.send(rank, 7 if rank == stuck else 9, idle=idle)
        loss = job.states.lost()
        assert (loss is not None) == (idle > TIMEOUT)
    assert loss.rank == stuck
    for word in (f"rank {stuck} (process {100 + stuck} on node)", f"{idle} s", "step 7"):
        assert word in loss.text


def test_of_ranks_at_the_same_step_the_longest_idle_one_is_stuck(job):
    for rank in range(3):
        job.send(rank, 7, idle=TIMEOUT + 1 + (rank == 1))
    assert job.states.lost().rank == 1


@pytest.mark.parametrize("stuck", range(3))
def test_a_rank_that_never_reaches_the_pause_of_the_others_is_stuck(job, stuck):
    """The others are about to write a checkpoint or to evaluate."""
    for rank in range(3):
        job.send(rank, 9, paused=True)
    job.send(stuck, 8, idle=TIMEOUT + 1)
    assert job.states.lost().rank == stuck


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_a_rank_that_pauses_alone_is_not_stuck(job, steps_ahead):
    """It waits for its own disk; the others wait for it in a collective."""
    job.send(1, 8, paused=True)
    for rank in (0, 2):
        job.send(rank, 8 + steps_ahead, idle=10 * TIMEOUT)
    assert job.states.lost() is None


def test_only_a_silent_rank_is_lost_while_all_pause(job):
    for rank in range(3):
        job.send(rank, 5, paused=True)
    job.now = TIMEOUT - 1
    assert job.states.lost() is None
    job.now = TIMEOUT + 2
    for rank in (0, 2):
        job.send(rank, 5, paused=True)
    loss = job.states.lost()
    assert loss.rank == 1
    assert "12 s" in loss.text
    assert "step 5" in loss.text


def test_a_closed_connection_is_a_death_unless_the_rank_was_leaving(job):
    for rank in range(3):
        job.send(rank, 5)
    job.send(1, 5, leaving=True)
    assert not job.states.closed(1)
    assert job.states.lost() is None
    assert "rank 1 (process 101 on node)" in job.states.left()
    assert job.states.closed(2)
    assert job.states.lost().rank == 2
    assert "step 5" in job.states.lost().text


def test_an_unknown_connection_is_not_a_death(job):
    job.send(0, 5)
    assert not job.states.closed("unknown")
    assert job.states.lost() is None
    assert job.states.left() is None
