"""A snapshot is the state at one moment, whatever training changes while it is read."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from model.embedding.optimizers import OPTIMIZERS
from model.embedding.placement import Assignment, Placement
from model.embedding.tables import FusedTables
from training.checkpoint import snapshot as snapshots
from training.checkpoint.snapshot import Snapshot

VOCAB, WIDTH = (700, 40, 900), 8


def fused_tables(optimizer):
    placement = Placement(VOCAB, WIDTH, 1, (Assignment("table", (0,)),) * len(VOCAB))
    shards = placement.shards_of(0)
    first = [shard.base_row for shard in shards]
    fused = FusedTables(placement, shards, first, sum(VOCAB), WIDTH, seed=5, optimizer=optimizer)
    return fused, np.array(first, np.int64), np.array(VOCAB, np.int64)


def values_of(fused):
    return {state: fused.read_rows(0, sum(VOCAB), state) for state in fused.states}


def change(fused, base, sizes, generator, snapshot=None, waiting=lambda: None):
    """One update of 64 samples, as a training step makes it."""
    ids = (generator.zipf(1.2, (64, len(VOCAB))) % sizes).astype(np.int32)
    if snapshot is not None:
        snapshot.before_change((ids + base).reshape(-1), waiting)
    gradients = generator.normal(size=(64, len(VOCAB), WIDTH)).astype(np.float32)
    fused.update(tf.constant(ids), tf.constant(gradients), base, sizes, 0.5, 1.0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_reads_what_was_there_while_rows_change(monkeypatch, optimizer, seed):
    monkeypatch.setattr(snapshots, "_PIECE_BYTES", 2000)  # a few dozen rows at a time
    generator = np.random.default_rng(seed)
    fused, base, sizes = fused_tables(optimizer)
    for _ in range(3):
        change(fused, base, sizes, generator)
    before = values_of(fused)
    snapshot = Snapshot(fused, budget=1 << 30)
    read = {state: [] for state in fused.states}
    for index in range(len(VOCAB)):
        for piece in snapshot.pieces(index):
            for state, values in piece.items():
                read[state].append(values)
            change(fused, base, sizes, generator, snapshot)
    for state, expected in before.items():
        np.testing.assert_array_equal(np.concatenate(read[state]), expected)
        assert not np.array_equal(values_of(fused)[state], expected)


def test_two_threads_at_once(monkeypatch):
    monkeypatch.setattr(snapshots, "_PIECE_BYTES", 700)
    generator = np.random.default_rng(11)
    fused, base, sizes = fused_tables("adagrad")
    before = values_of(fused)
    snapshot = Snapshot(fused, budget=1 << 30)
    read, done = {state: [] for state in fused.states}, threading.Event()

    def reader():
        for index in range(len(VOCAB)):
            for piece in snapshot.pieces(index):
                for state, values in piece.items():
                    read[state].append(values)
        done.set()

    thread = threading.Thread(target=reader)
    thread.start()
    steps = 0
    while not done.is_set():
        change(fused, base, sizes, generator, snapshot)
        steps += 1
    thread.join()
    assert steps > 1
    for state, expected in before.items():
        np.testing.assert_array_equal(np.concatenate(read[state]), expected)


def test_waits_for_the_reader_beyond_the_budget_and_then_lets_go(monkeypatch):
    monkeypatch.setattr(snapshots, "_PIECE_BYTES", 2000)
    generator = np.random.default_rng(3)
    fused, base, sizes = fused_tables("sgd")
    before = values_of(fused)["table"]
    snapshot = Snapshot(fused, budget=1)
    change(fused, base, sizes, generator, snapshot)  # the first copies are over the budget
    told = threading.Event()
    arguments = (fused, base, sizes, generator, snapshot, told.set)
    waiting = threading.Thread(target=change, args=arguments)
    waiting.start()
    assert told.wait(30)
    waiting.join(timeout=0.3)
    assert waiting.is_alive()
    pieces = [piece["table"] for index in range(len(VOCAB)) for piece in snapshot.pieces(index)]
    waiting.join(timeout=30)
    assert not waiting.is_alive()
    np.testing.assert_array_equal(np.concatenate(pieces), before)


def test_ends_for_whoever_waits():
    fused, base, sizes = fused_tables("sgd")
    snapshot = Snapshot(fused, budget=0)
    generator = np.random.default_rng(4)
    change(fused, base, sizes, generator, snapshot)
    waiting = threading.Thread(target=change, args=(fused, base, sizes, generator, snapshot))
    waiting.start()
    snapshot.end()
    waiting.join(timeout=30)
    assert not waiting.is_alive()
