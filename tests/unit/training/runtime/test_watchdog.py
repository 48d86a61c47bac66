"""The watch over ranks, on threads as ranks."""

import socket
import threading
import time

import pytest

from tests.support.thread_ranks import ThreadRanks
from training.runtime.watchdog import Watchdog


def watch(size, body, timeout=1, tick=0.1):
    """Runs body on each rank; returns what each rank was told, None if all well."""
    told = [None] * size

    def run(cluster):
        told_here = threading.Event()

        def on_loss(loss):
            told[cluster.rank] = loss.text
            assert loss.text.startswith(f"rank {loss.rank} (process ")
            told_here.set()

        watchdog = Watchdog(cluster, timeout, on_loss, tick=tick)
        body(cluster, watchdog, told_here)
        watchdog.close()

    ThreadRanks(size).run(run)
    return told


def test_all_well():
    def body(cluster, watchdog, told):
        for step in range(20):  # longer than the timeout, which a busy machine may not fill
            watchdog.heartbeat(f"step {step}")
            time.sleep(0.2 + 0.02 * cluster.rank)

    assert watch(3, body, timeout=3) == [None] * 3


def test_a_pause_is_no_stall():
    def body(cluster, watchdog, told):
        watchdog.heartbeat("step 1")
        watchdog.pause()
        time.sleep(2)

    assert watch(2, body, timeout=1) == [None] * 2


@pytest.mark.parametrize("stuck", [0, 1, 2])
def test_the_rank_that_is_behind_is_named(stuck):
    def body(cluster, watchdog, told):
        for step in range(3 if cluster.rank == stuck else 5):
            watchdog.heartbeat(f"step {step}")
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
        watchdog.heartbeat("step 8")
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
        watchdog.heartbeat("step 8")
        if cluster.rank == 1:
            watchdog.pause(alone=True)
        else:
            for step in range(steps_ahead):
                watchdog.heartbeat(f"step {9 + step}")
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
            watchdog.heartbeat(f"step {step}")
            time.sleep(0.1)
        assert not told.is_set()
        cluster.gather(0)
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
        watchdog.heartbeat("step 7")
        time.sleep(0.5)
        if cluster.rank == dead:
            # What the kernel does to a killed process's connections.
            watchdog.sever()
        else:
            assert told.wait(60)

    messages = watch(3, body)
    survivors = [message for rank, message in enumerate(messages) if rank != dead]
    assert all(f"rank {dead}" in message and "died" in message for message in survivors)


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_death_is_told_at_once(dead):
    """A launcher ends all ranks some milliseconds after the first: no tick may pass before."""

    def body(cluster, watchdog, told):
        watchdog.heartbeat("step 7")
        time.sleep(1)
        if cluster.rank == dead:
            watchdog.sever()
        else:
            assert told.wait(20)

    messages = watch(3, body, timeout=300, tick=100)
    survivors = [message for rank, message in enumerate(messages) if rank != dead]
    assert all(message.startswith(f"rank {dead} (process") for message in survivors)


@pytest.mark.parametrize("gone", [0, 1])
def test_find_loss_names_a_rank_that_left_by_itself(gone):
    found = [None] * 3

    def body(cluster, watchdog, told):
        watchdog.heartbeat("step 7")
        time.sleep(0.5)
        if cluster.rank != gone:
            found[cluster.rank] = watchdog.find_loss(20)

    assert watch(3, body, timeout=30) == [None] * 3
    assert found.pop(gone) is None
    assert all(text.startswith(f"rank {gone} (process ") for text in found)
    assert all(text.endswith(" ended with an error") for text in found)


def test_find_loss_gives_up():
    def body(cluster, watchdog, told):
        assert watchdog.find_loss(0.3) is None
        time.sleep(1)  # the others look, too

    assert watch(2, body, timeout=30) == [None] * 2


def test_a_rank_that_leaves_is_no_loss():
    def body(cluster, watchdog, told):
        watchdog.heartbeat("the end")
        if cluster.rank == 1:
            return
        time.sleep(1)

    assert watch(3, body, timeout=10) == [None] * 3
