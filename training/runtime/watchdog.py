"""Ends a job when a rank has died or makes no progress, and names that rank.

A collective waits for all ranks: if one is dead or stuck, the others would wait forever. So a
thread of each rank sends the rank's activity and its duration to rank 0 once a second, over a TCP
connection. Rank 0 detects a closed connection (dead rank), a silent one (stopped rank) and, if no
rank makes progress, the rank that is behind the others (stuck). It informs all ranks at once; each
prints the message and exits with `EXIT_RANK_LOST`. All ranks detect the loss of rank 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from storage.structured import StructureError
from training.runtime import rank_status
from training.runtime.errors import EXIT_RANK_LOST
from training.runtime.rank_states import Loss, RankStates, death, name_of
from training.runtime.watchdog_messages import State, read_states

if TYPE_CHECKING:
    from training.runtime.process_group import ProcessGroup

# Seconds that a rank waits before it exits, so that the launcher reports the lost rank first.
_EXIT_DELAY = 2.0


class Watchdog:
    """Monitors all ranks from a thread. Every rank of the job must create one.

    Args:
        cluster: the ranks, at least two.
        timeout: seconds without a message, or without progress, after which a rank is lost.
        on_loss: called with the `Loss`; None to print it and exit.
        tick: seconds between two messages of a rank.
    """

    def __init__(
        self,
        cluster: ProcessGroup,
        timeout: float,
        on_loss: Callable[[Loss], None] | None = None,
        tick: float = 1.0,
    ):
        self._rank, self._size = cluster.rank, cluster.size
        self._timeout, self._tick = timeout, tick
        self._on_loss = on_loss or self._exit
        self._activity, self._count = "the start", 0
        self._since, self._paused = time.monotonic(), True
        self._closing = threading.Event()
        self._left: str | None = None
        self._first: State | None = None  # The last state that rank 0 sent.
        self._wake, self._woken = socket.socketpair()
        if self._rank == 0:
            server = socket.create_server((_own_address(cluster), 0), backlog=self._size)
            _agree_on_address(cluster, server.getsockname())
            self._sockets = [server]
            self._thread = threading.Thread(target=self._serve, args=(server,), daemon=True)
        else:
            address = _agree_on_address(cluster, None)
            connection = socket.create_connection(address, timeout=timeout)
            self._sockets = [connection]
            self._thread = threading.Thread(target=self._report, args=(connection,), daemon=True)
        self._thread.start()

    def heartbeat(self, activity: str) -> None:
        """Records progress of this rank.

        Args:
            activity: what the rank does next, e.g. "step 12".
        """
        self._activity, self._since, self._paused = activity, time.monotonic(), False
        self._count += 1

    def pause(self, alone: bool = False) -> None:
        """Suspends the timeout until the next `heartbeat`, e.g. while a function is compiled.

        The watchdog still detects a rank that dies or stops, and one that never reaches its pause.

        Args:
            alone: whether only this rank pauses; otherwise all ranks pause here.
        """
        self._paused = True
        if not alone:
            self._count += 1

    def close(self) -> None:
        """Stops monitoring, at the end of the job or after an error of this rank."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._wake.send(b".")
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            self._wake.close()
            self._woken.close()

    def find_loss(self, seconds: float) -> str | None:
        """Waits for the cause of a failed collective; returns a line about it, or None.

        If a rank died, the watchdog prints its name and ends this process. The returned line is
        about a rank that left the job with an error of its own.

        Args:
            seconds: the longest time to wait.
        """
        deadline = time.monotonic() + seconds
        while self._left is None and time.monotonic() < deadline:
            self._thread.join(timeout=0.05)
            if not self._thread.is_alive():
                break
        return self._left

    def _state(self) -> State:
        return {
            "rank": self._rank,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "activity": self._activity,
            "count": self._count,
            "idle": 0.0 if self._paused else time.monotonic() - self._since,
            "paused": self._paused,
            "leaving": self._closing.is_set(),
        }

    def _answer(self, lost: Loss | None = None, leaving: bool = False) -> dict[str, Any]:
        return {"lost": lost, "leaving": leaving, "left": self._left, "first": self._state()}

    def _exit(self, loss: Loss) -> None:
        # A thread that is stuck in a collective cannot be unwound: exit at once.
        print(f"error: {loss.text}", file=sys.stderr, flush=True)
        rank_status.record_loss(self._rank, loss.rank, loss.text)
        rank_status.record_exit(self._rank, EXIT_RANK_LOST)
        time.sleep(_EXIT_DELAY)
        os._exit(EXIT_RANK_LOST)

    def _report(self, connection: socket.socket) -> None:
        """Sends this rank's state to rank 0 each tick and handles its answers."""
        connection.settimeout(self._tick)
        last_answer, buffer, next_round = time.monotonic(), b"", 0.0
        with selectors.DefaultSelector() as selector:
            for source in (connection, self._woken):
                selector.register(source, selectors.EVENT_READ)
            while True:
                leaving = self._closing.is_set()
                if time.monotonic() - last_answer > self._timeout:
                    text = f"has sent no answer for {self._timeout} s (--stall_timeout)"
                    return self._on_loss(Loss(0, f"{name_of(0, self._first)} {text}"))
                try:
                    if leaving or time.monotonic() >= next_round:
                        next_round = time.monotonic() + self._tick
                        connection.sendall(_line(self._state()))
                    if leaving:
                        connection.close()
                        return None
                    ready = selector.select(max(0.0, next_round - time.monotonic()))
                    if connection in [key.fileobj for key, _ in ready]:
                        received = connection.recv(4096)
                        if not received:
                            raise ConnectionError("closed")
                        last_answer, buffer = time.monotonic(), buffer + received
                        for message in _lines(buffer):
                            self._left = message["left"] or self._left
                            self._first = message["first"]
                            if message["lost"]:
                                return self._on_loss(Loss(*message["lost"]))
                            if message["leaving"]:
                                return None
                        buffer = buffer[buffer.rfind(b"\n") + 1 :]
                except TimeoutError:
                    continue
                except OSError:
                    if self._closing.is_set():
                        return None
                    activity = self._first["activity"] if self._first else "the start"
                    text = f"{name_of(0, self._first)} {death(activity)}"
                    return self._on_loss(Loss(0, text))

    def _serve(self, server: socket.socket) -> None:
        """Receives the states of all ranks, finds lost ranks and informs the others."""
        selector = selectors.DefaultSelector()
        for source in (server, self._woken):
            selector.register(source, selectors.EVENT_READ)
        ranks = RankStates(self._timeout)
        buffers: dict[socket.socket, bytes] = {}
        next_round = time.monotonic()
        while True:
            leaving = self._closing.is_set()
            for key, _ in selector.select(0 if leaving else self._tick / 2):
                if key.fileobj is self._woken:
                    continue
                if key.fileobj is server:
                    connection, _ = server.accept()
                    connection.settimeout(self._tick)
                    self._sockets.append(connection)
                    selector.register(connection, selectors.EVENT_READ)
                    buffers[connection] = b""
                    _try_send(connection, self._answer())
                    continue
                connection = cast(socket.socket, key.fileobj)
                try:
                    received = connection.recv(4096)
                except OSError:
                    received = b""
                buffers[connection] += received
                try:
                    for state in read_states(buffers[connection], self._size):
                        ranks.update(connection, state)
                except StructureError:
                    received = b""  # Not a rank but an unknown client, e.g. a port scan.
                buffers[connection] = buffers[connection].rpartition(b"\n")[2]
                if not received:
                    if ranks.closed(connection):
                        # Report it at once: the launcher will soon kill the other ranks.
                        next_round = 0.0
                    selector.unregister(connection)
                    connection.close()
                    del buffers[connection]
            if time.monotonic() < next_round and not leaving:
                continue
            next_round = time.monotonic() + self._tick
            ranks.update(None, self._state())
            lost, self._left = None if leaving else ranks.lost(), ranks.left()
            answer = self._answer(lost, leaving)
            for connection in buffers:
                _try_send(connection, answer)
            if leaving:
                return None
            if lost:
                return self._on_loss(lost)


def _agree_on_address(cluster: ProcessGroup, local: tuple[str, int] | None) -> tuple[str, int]:
    """Returns the (host, port) of rank 0 on all ranks; `local` is None on the others."""
    numbers = np.zeros(5, np.int64)
    if local is not None:
        numbers[:4] = list(socket.inet_aton(local[0]))
        numbers[4] = local[1]
    numbers = cluster.all_reduce_sum(numbers)
    return ".".join(str(int(n)) for n in numbers[:4]), int(numbers[4])


def _own_address(cluster: ProcessGroup) -> str:
    """Returns the IPv4 address at which the other ranks reach this one."""
    if cluster.local_size == cluster.size:
        return "127.0.0.1"
    launcher = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR")
    if launcher:
        # Connecting a datagram socket sends nothing; it only selects the interface.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((launcher, 9))
            address = probe.getsockname()[0]
        if not address.startswith("127."):
            return address
    return socket.gethostbyname(socket.gethostname())


def _line(message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _lines(buffer: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in buffer.split(b"\n")[:-1] if line]


def _try_send(connection: socket.socket, message: dict[str, Any]) -> None:
    # A rank that does not read is detected by its silence.
    with contextlib.suppress(OSError):
        connection.sendall(_line(message))
