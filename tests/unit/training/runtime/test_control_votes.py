"""What one rank asks of all, as the loop asks it and hears it."""

import time

import tensorflow as tf

from training.runtime.control_votes import ControlVotes


def heard_in(votes, steps):
    """Makes the steps of a single rank; returns the numbers of those that heard of a checkpoint."""
    found = []
    for step in range(steps):
        _, checkpoint = votes.global_vote(tf.constant(votes.local_vote()))
        if checkpoint:
            found.append(step)
            votes.checkpointed()
    return found


def test_a_timed_checkpoint_is_asked_for_once():
    """The step after the one that asked sets out before the answer is read."""
    votes = ControlVotes(minutes=1e-3, rank=0)
    time.sleep(0.07)
    assert heard_in(votes, 5) == [1]
    time.sleep(0.07)
    assert heard_in(votes, 5) == [1]


def test_looking_for_a_request_to_stop_takes_nothing_away():
    votes = ControlVotes(minutes=1e-9, rank=0)
    time.sleep(0.01)
    assert not votes.stopping
    votes.stop()
    assert votes.stopping
    assert votes.local_vote() == (1.0, 1.0)


def test_ranks_but_the_first_ask_for_no_checkpoint():
    votes = ControlVotes(minutes=1e-9, rank=1)
    time.sleep(0.01)
    assert votes.local_vote() == (0.0, 0.0)
