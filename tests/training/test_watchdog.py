"""The watch over ranks, on threads as ranks."""

import socket
import threading
import time

import pytest

from tests.ranks import ThreadRanks
from training.watchdog import Watchdog


def watch(size, body, timeout=1):
    """Runs body on each rank; returns what each rank was told, None if all well."""
    told = [None] * size

    def run(cluster):
        told_here = threading.Event()

        def on_loss(message):
            told[cluster.rank] = message
            told_here.set()

        watchdog = Watchdog(cluster, timeout, on_loss, tick=0.1)
        body(cluster, watchdog, told_here)
        watchdog.close()

    ThreadRanks(size).run(run)
    return told


def test_all_well():
    def body(cluster, watchdog, told):
        for step in range(20):  # longer than the timeout, which a busy machine may not fill
            watchdog.beat(f"step {step}")
            time.sleep(0.2 + 0.02 * cluster.rank)

    assert watch(3, body, timeout=3) == [None] * 3


def test_a_pause_is_no_stall():
    def body(cluster, watchdog, told):
        watchdog.beat("step 1")
        watchdog.pause()
        time.sleep(2)

    assert watch(2, body, timeout=1) == [None] * 2


@pytest.mark.parametrize("stuck", [0, 1, 2])
def test_the_rank_that_is_behind_is_named(stuck):
    def body(cluster, watchdog, told):
        for step in range(3 if cluster.rank == stuck else 5):
            watchdog.beat(f"step {step}")
            time.sleep(0.1)
        assert told.wait(60)

    messages = watch(3, body)
    assert all(message == messages[0] for message in messages)
    assert f"rank {stuck} (process" in messages[0]
    assert "no progress" in messages[0]
    assert "step 2" in messages[0]


@pytest.mark.parametrize("stuck", [0, 1, 2])
def test_a_rank_that_hangs_while_the_others_pause_is_named(stuck):
    """As in a step after which the others are about to write a checkpoint or to evaluate."""

    def body(cluster, watchdog, told):
        watchdog.beat("step 8")
        if cluster.rank != stuck:
            watchdog.pause()
        assert told.wait(60)

    messages = watch(3, body)
    assert all(message == messages[0] for message in messages)
    assert f"rank {stuck} (process" in messages[0]
    assert "no progress" in messages[0]
    assert "step 8" in messages[0]


@pytest.mark.parametrize("steps_ahead", [0, 1])
def test_a_rank_that_waits_for_its_own_disk_is_not_taken_for_stuck(steps_ahead):
    def body(cluster, watchdog, told):
        watchdog.beat("step 8")
        if cluster.rank == 1:
            watchdog.pause(alone=True)
        else:
            for step in range(steps_ahead):
                watchdog.beat(f"step {9 + step}")
        time.sleep(3)  # the others wait in a collective, longer than the timeout

    assert watch(3, body, timeout=1) == [None] * 3


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[1]\n",
        b'{"rank": 0}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b"",
    ],
)
def test_a_stranger_disturbs_nobody(said):
    def body(cluster, watchdog, told):
        if cluster.rank == 0:
            address = watchdog._sockets[0].getsockname()
            with socket.create_connection(address, timeout=30) as stranger:
                stranger.sendall(said)
        for step in range(40):  # longer than the timeout: beats still come through
            watchdog.beat(f"step {step}")
            time.sleep(0.1)
        assert not told.is_set()
        # Whoever watches still does.
        if cluster.rank == 1:
            watchdog.sever()
        else:
            assert told.wait(60)

    messages = watch(3, body, timeout=3)
    assert messages[1] is None
    assert all("rank 1 (process" in message for message in messages[::2])


@pytest.mark.parametrize("dead", [0, 2])
def test_a_rank_that_dies_is_named(dead):
    def body(cluster, watchdog, told):
        watchdog.beat("step 7")
        time.sleep(0.5)
        if cluster.rank == dead:
            # What the kernel does to a killed process's connections.
            watchdog.sever()
        else:
            assert told.wait(60)

    messages = watch(3, body)
    survivors = [message for rank, message in enumerate(messages) if rank != dead]
    assert all(f"rank {dead}" in message and "died" in message for message in survivors)


def test_a_rank_that_leaves_is_no_loss():
    def body(cluster, watchdog, told):
        watchdog.beat("the end")
        if cluster.rank == 1:
            return
        time.sleep(1)

    assert watch(3, body, timeout=10) == [None] * 3
