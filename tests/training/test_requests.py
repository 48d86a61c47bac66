"""What one rank asks of all, as the loop asks it and hears it."""

import time

import tensorflow as tf

from training.requests import Requests


def heard_in(requests, steps):
    """Makes the steps of a single rank; returns the numbers of those that heard of a checkpoint."""
    found = []
    for step in range(steps):
        _, checkpoint = requests.heard(tf.constant(requests.pending()))
        if checkpoint:
            found.append(step)
            requests.checkpointed()
    return found


def test_a_timed_checkpoint_is_asked_for_once():
    """The step after the one that asked sets out before the answer is read."""
    requests = Requests(minutes=1e-3, rank=0)
    time.sleep(0.07)
    assert heard_in(requests, 5) == [1]
    time.sleep(0.07)
    assert heard_in(requests, 5) == [1]


def test_looking_for_a_request_to_stop_takes_nothing_away():
    requests = Requests(minutes=1e-9, rank=0)
    time.sleep(0.01)
    assert not requests.stopping
    requests.stop()
    assert requests.stopping
    assert requests.pending() == (1.0, 1.0)


def test_ranks_but_the_first_ask_for_no_checkpoint():
    requests = Requests(minutes=1e-9, rank=1)
    time.sleep(0.01)
    assert requests.pending() == (0.0, 0.0)
