"""Votes to stop or to write a checkpoint."""

import time

import pytest
import tensorflow as tf

from training.runtime.control_votes import ControlVotes


def test_timed_checkpoint_is_requested_once_per_interval():
    """The step after the request starts before the result of the vote is read."""
    votes = ControlVotes(minutes=1e-3, rank=0)
    for _ in range(2):
        time.sleep(0.07)
        found = []
        for step in range(5):
            _, checkpoint = votes.global_vote(tf.constant(votes.local_vote()))
            if checkpoint:
                found.append(step)
                votes.checkpointed()
        assert found == [1]


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_may_stop_but_only_rank_0_requests_timed_checkpoints(rank):
    votes = ControlVotes(minutes=1e-9, rank=rank)
    time.sleep(0.01)
    assert not votes.stopping
    votes.stop()
    assert votes.stopping
    assert votes.local_vote() == (1.0, float(rank == 0))


def test_votes_of_several_steps_are_read_together():
    """On a GPU a read waits, so it is seldom; a request in any of the steps counts once."""
    votes = ControlVotes(None, 0, read_every=3)
    given = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.0), (0.0, 0.25), *[(0.0, 0.0)] * 6]
    results = [votes.global_vote(tf.constant(vote)) for vote in given]
    expected = [(False, False)] * len(given)
    expected[3], expected[6] = (True, False), (False, True)
    assert results == expected


def test_global_vote_returns_the_previous_step():
    votes = ControlVotes(None, 1)
    results = [
        votes.global_vote(tf.constant(vote)) for vote in ((0.25, 0.0), (0.0, 0.5), (0.0, 0.0))
    ]
    assert results == [(False, False), (True, False), (False, True)]
