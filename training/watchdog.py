"""Ends a job in which a rank has died or makes no progress, and says which rank it was.

A collective waits for all ranks: with one of them gone or stuck, the others would wait for ever.
So each rank tells rank 0 once a second, from a thread and over a TCP connection of its own, what
it is doing and for how long. Rank 0 sees a closed connection (died), a silent one (stopped) and
the rank that is behind the others when nobody moves any more (stuck); it tells all ranks, and
each prints that and exits with `EXIT_RANK_LOST`. Losing rank 0 is seen by all.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time

import numpy as np

from storage.structured import StructureError
from training import status
from training.environment import launched_rank
from training.errors import EXIT_RANK_LOST
from training.watch_messages import read_states


class Watchdog:
    """Watches over all ranks from a thread. Every rank of the job must make one.

    Args:
        cluster: the ranks (`training.cluster`), two or more.
        timeout: seconds without a sign of life, or without progress, after which to give up.
        on_loss: called with the message instead of printing it and exiting, for tests.
        tick: seconds between two messages of a rank.
    """

    def __init__(self, cluster, timeout, on_loss=None, tick=1.0):
        self._rank, self._size = cluster.rank, cluster.size
        self._timeout, self._tick = timeout, tick
        self._on_loss = on_loss or _exit
        self._doing, self._count, self._since, self._paused = "start", 0, time.monotonic(), True
        self._closing = threading.Event()
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

    def beat(self, doing):
        """Says that the rank goes on.

        Args:
            doing: what comes next, e.g. "step 12".
        """
        self._doing, self._since, self._paused = doing, time.monotonic(), False
        self._count += 1

    def pause(self, alone=False):
        """Expects no progress until the next `beat`, e.g. while a function is compiled.

        A rank that dies or stops meanwhile is still noticed, and so is one that never comes here.

        Args:
            alone: the other ranks need not pause here; otherwise all of them do.
        """
        self._paused = True
        if not alone:
            self._count += 1

    def close(self):
        """Leaves the watch, once the job is done or has failed with an error of its own."""
        self._closing.set()
        self._thread.join(timeout=5)

    def sever(self):
        """Closes all connections without a word, as the death of this process would."""
        self._on_loss = lambda message: None
        for connection in self._sockets:
            connection.close()

    def _state(self):
        return {
            "rank": self._rank,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "doing": self._doing,
            "count": self._count,
            "idle": 0.0 if self._paused else time.monotonic() - self._since,
            "paused": self._paused,
            "leaving": self._closing.is_set(),
        }

    def _report(self, connection):
        """Tells rank 0 this rank's state each tick and hears what it says."""
        connection.settimeout(self._tick)
        heard, buffer = time.monotonic(), b""
        while True:
            leaving = self._closing.is_set()
            try:
                connection.sendall(_line(self._state()))
                if leaving:
                    connection.close()
                    return None
                received = connection.recv(4096)
                if not received:
                    raise ConnectionError("closed")
                heard = time.monotonic()
                buffer += received
                for message in _lines(buffer):
                    if message.get("lost"):
                        return self._on_loss(message["lost"])
                    if message.get("leaving"):
                        return None
                buffer = buffer[buffer.rfind(b"\n") + 1 :]
                self._closing.wait(self._tick)
            except TimeoutError:
                if time.monotonic() - heard > self._timeout:
                    return self._on_loss(f"rank 0 has not answered for {self._timeout} s")
            except OSError:
                if self._closing.wait(self._tick):
                    return None
                return self._on_loss("rank 0 died: it closed its connection")

    def _serve(self, server):
        """Hears all ranks; decides who is lost and tells the others."""
        selector = selectors.DefaultSelector()
        selector.register(server, selectors.EVENT_READ)
        ranks = _Ranks(self._timeout)
        buffers = {}
        next_round = time.monotonic()
        while True:
            leaving = self._closing.is_set()
            for key, _ in selector.select(timeout=self._tick / 2):
                if key.fileobj is server:
                    connection, _ = server.accept()
                    connection.settimeout(self._tick)
                    self._sockets.append(connection)
                    selector.register(connection, selectors.EVENT_READ)
                    buffers[connection] = b""
                    continue
                connection = key.fileobj
                try:
                    received = connection.recv(4096)
                except OSError:
                    received = b""
                buffers[connection] += received
                try:
                    for state in read_states(buffers[connection], self._size):
                        ranks.hear(connection, state)
                except StructureError:
                    received = b""  # No rank speaks so: a stranger, such as a scan of ports.
                buffers[connection] = buffers[connection].rpartition(b"\n")[2]
                if not received:
                    ranks.closed(connection)
                    selector.unregister(connection)
                    connection.close()
                    del buffers[connection]
            if time.monotonic() < next_round and not leaving:
                continue
            next_round = time.monotonic() + self._tick
            ranks.hear(None, self._state())
            lost = None if leaving else ranks.lost()
            for connection in buffers:
                _try_send(connection, {"lost": lost, "leaving": leaving})
            if leaving:
                return None
            if lost:
                return self._on_loss(lost)


class _Ranks:
    """What rank 0 knows of each rank, and who of them is lost."""

    def __init__(self, timeout):
        self._timeout = timeout
        self._states = {}
        self._heard = {}
        self._rank_of = {}
        self._died = None

    def hear(self, connection, state):
        self._states[state["rank"]] = state
        self._heard[state["rank"]] = time.monotonic()
        self._rank_of[connection] = state["rank"]

    def closed(self, connection):
        rank = self._rank_of.pop(connection, None)
        if rank is not None and not self._states[rank]["leaving"] and self._died is None:
            self._died = rank

    def lost(self):
        """Returns a message about a lost rank, or None."""
        if self._died is not None:
            return f"{self._name(self._died)} died during {self._states[self._died]['doing']}"
        now = time.monotonic()
        watched = {r: s for r, s in self._states.items() if not s["leaving"]}
        for rank in watched:
            silent = now - self._heard[rank]
            if silent > self._timeout:
                return (
                    f"{self._name(rank)} has not answered for {silent:.0f} s (last heard during "
                    f"{watched[rank]['doing']}); --stall_timeout sets the patience"
                )
        # Ranks that wait in a collective stand still with the one that they wait for: that is
        # the one which has come least far. So do those that have come further and pause there.
        if not watched:
            return None
        behind = min(watched.values(), key=lambda state: (state["count"], -state["idle"]))
        if behind["idle"] > self._timeout and all(
            s["idle"] > self._timeout or (s["paused"] and s["count"] > behind["count"])
            for s in watched.values()
        ):
            return (
                f"{self._name(behind['rank'])} has made no progress for {behind['idle']:.0f} s in "
                f"{behind['doing']} and the others wait; --stall_timeout sets the patience"
            )
        return None

    def _name(self, rank):
        state = self._states[rank]
        return f"rank {rank} (process {state['pid']} on {state['host']})"


def _agree_on_address(cluster, mine):
    """Tells all ranks the (host, port) where rank 0 listens; the others pass None."""
    numbers = np.zeros(5, np.int64)
    if mine is not None:
        numbers[:4] = list(socket.inet_aton(mine[0]))
        numbers[4] = mine[1]
    numbers = cluster.sum(numbers)
    return ".".join(str(int(n)) for n in numbers[:4]), int(numbers[4])


def _own_address(cluster):
    """Returns the IPv4 address at which the other ranks reach this one."""
    if cluster.local_size == cluster.size:
        return "127.0.0.1"
    launcher = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR")
    if launcher:
        # Connecting a datagram socket sends nothing; it only picks the interface.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((launcher, 9))
            address = probe.getsockname()[0]
        if not address.startswith("127."):
            return address
    return socket.gethostbyname(socket.gethostname())


def _line(message):
    return json.dumps(message).encode() + b"\n"


def _lines(buffer):
    return [json.loads(line) for line in buffer.split(b"\n")[:-1] if line]


def _try_send(connection, message):
    # A rank that does not read is found by its silence.
    with contextlib.suppress(OSError):
        connection.sendall(_line(message))


def _exit(message):
    # A thread that is stuck in a collective cannot be unwound: leave at once.
    print(f"error: {message}", file=sys.stderr, flush=True)
    status.ended(launched_rank(), EXIT_RANK_LOST)
    os._exit(EXIT_RANK_LOST)
