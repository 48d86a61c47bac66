"""Votes to stop or to write a checkpoint."""

import time

import tensorflow as tf

from training.runtime.control_votes import ControlVotes


def steps_with_checkpoint(votes, steps):
    """Simulates the steps of a single rank; returns those after which a checkpoint was due."""
    found = []
    for step in range(steps):
        _, checkpoint = votes.global_vote(tf.constant(votes.local_vote()))
        if checkpoint:
            found.append(step)
            votes.checkpointed()
    return found


def test_timed_checkpoint_is_requested_once_per_interval():
    """The step after the request starts before the result of the vote is read."""
    votes = ControlVotes(minutes=1e-3, rank=0)
    time.sleep(0.07)
    assert steps_with_checkpoint(votes, 5) == [1]
    time.sleep(0.07)
    assert steps_with_checkpoint(votes, 5) == [1]


def test_reading_stopping_keeps_the_request():
    votes = ControlVotes(minutes=1e-9, rank=0)
    time.sleep(0.01)
    assert not votes.stopping
    votes.stop()
    assert votes.stopping
    assert votes.local_vote() == (1.0, 1.0)


def test_only_rank_0_requests_timed_checkpoints():
    votes = ControlVotes(minutes=1e-9, rank=1)
    time.sleep(0.01)
    assert votes.local_vote() == (0.0, 0.0)


def test_global_vote_returns_the_previous_step():
    votes = ControlVotes(None, 1)
    results = [
        votes.global_vote(tf.constant(vote)) for vote in ((0.25, 0.0), (0.0, 0.5), (0.0, 0.0))
    ]
    assert results == [(False, False), (True, False), (False, True)]
