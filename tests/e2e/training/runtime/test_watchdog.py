"""The watchdog over TCP, with threads as ranks. `test_rank_states.py` tests what counts as lost."""

import socket
import threading
import time

import pytest

from tests.support.thread_ranks import ThreadRanks
from training.runtime.watchdog import Watchdog

GARBAGE = (
    b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"rank": 0}\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n",
    b"",
)  # fmt: skip


def watch(size, body, timeout=30, tick=0.05):
    """Runs body(cluster, watchdog, lost) on each rank; returns each rank's loss message or None."""
    messages = [None] * size

    def run(cluster):
        lost = threading.Event()

        def on_loss(loss):
            messages[cluster.rank] = loss.text
            assert loss.text.startswith(f"rank {loss.rank} (process ")
            lost.set()

        watchdog = Watchdog(cluster, timeout, on_loss, tick=tick)
        body(cluster, watchdog, lost)
        watchdog.close()

    ThreadRanks(size).run(run)
    return messages


def die(watchdog):
    """Closes a rank's connections without a message, as the kernel does for a killed process."""
    watchdog._on_loss = lambda loss: None
    for connection in watchdog._sockets:
        connection.close()


@pytest.mark.parametrize("stuck", [0, 2])
def test_all_ranks_learn_of_a_stuck_rank(stuck):
    def body(cluster, watchdog, lost):
        for step in range(3 if cluster.rank == stuck else 5):
            watchdog.heartbeat(f"step {step}")
        assert lost.wait(60)

    messages = watch(3, body, timeout=2)
    assert all(message == messages[0] for message in messages)
    assert f"rank {stuck} (process" in messages[0]
    assert "step 2" in messages[0]


def test_heartbeats_and_a_pause_keep_a_job_alive_despite_unknown_clients():
    def body(cluster, watchdog, lost):
        if cluster.rank == 0:
            address = watchdog._sockets[0].getsockname()
            for data in GARBAGE:
                with socket.create_connection(address, timeout=30) as client:
                    client.sendall(data)
        for step in range(22):  # Longer than the timeout: heartbeats still arrive.
            watchdog.heartbeat(f"step {step}")
            time.sleep(0.15 + 0.01 * cluster.rank)
        watchdog.pause()
        time.sleep(3.5)
        assert not lost.is_set()
        cluster.gather(0)
        if cluster.rank == 1:  # The watchdog still detects a death.
            die(watchdog)
        else:
            assert lost.wait(60)

    messages = watch(3, body, timeout=2)
    assert messages[1] is None
    assert all("rank 1 (process" in message for message in messages[::2])


@pytest.mark.parametrize("dead", [0, 2])
def test_all_ranks_learn_of_a_death_before_the_next_tick(dead):
    """A launcher kills all ranks some milliseconds after the first has died."""

    def body(cluster, watchdog, lost):
        watchdog.heartbeat("step 7")
        cluster.gather(0)
        time.sleep(1)  # Until rank 0 has received the first states.
        if cluster.rank == dead:
            die(watchdog)
        else:
            assert lost.wait(20)

    messages = watch(3, body, timeout=300, tick=100)
    survivors = [message for rank, message in enumerate(messages) if rank != dead]
    assert all(message.startswith(f"rank {dead} (process") for message in survivors)


@pytest.mark.parametrize("gone", [0, 1])
def test_find_loss_names_a_rank_that_left_by_itself(gone):
    found = [None] * 3

    def body(cluster, watchdog, lost):
        watchdog.heartbeat("step 7")
        assert watchdog.find_loss(0.2) is None
        cluster.gather(0)
        if cluster.rank != gone:
            found[cluster.rank] = watchdog.find_loss(20)

    assert watch(3, body) == [None] * 3
    assert found.pop(gone) is None
    assert all(text.startswith(f"rank {gone} (process ") for text in found)
