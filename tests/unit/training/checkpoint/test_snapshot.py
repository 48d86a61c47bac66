"""A snapshot is the state at one time, whatever training changes while it is read."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from model.embedding.optimizers import OPTIMIZERS
from model.embedding.placement import Assignment, Placement
from model.embedding.tables import FusedTables
from ops.embedding import RowIds
from training.checkpoint import snapshot as snapshots
from training.checkpoint.snapshot import Snapshot

VOCAB, WIDTH = (700, 40, 900), 8


def fused_tables(optimizer, seed):
    placement = Placement(VOCAB, WIDTH, 1, (Assignment("table", (0,)),) * len(VOCAB))
    shards = placement.shards_of(0)
    first = [shard.base_row for shard in shards]
    fused = FusedTables(placement, shards, first, sum(VOCAB), WIDTH, seed=seed, optimizer=optimizer)
    return fused, np.array(first, np.int64), np.array(VOCAB, np.int64)


def values_of(fused):
    return {state: fused.read_rows(0, sum(VOCAB), state) for state in fused.states}


def change(fused, base, sizes, rng, snapshot=None, on_wait=lambda: None):
    """Applies the update of a training step with 64 samples."""
    ids = (rng.zipf(1.2, (64, len(VOCAB))) % sizes).astype(np.int32)
    if snapshot is not None:
        snapshot.before_change((ids + base).reshape(-1), on_wait)
    gradients = rng.normal(size=(64, len(VOCAB), WIDTH)).astype(np.float32)
    fused.update(RowIds(ids, base, sizes), tf.constant(gradients), 0.5, 1.0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pieces_are_the_old_rows_while_rows_change(monkeypatch, rng, seed, optimizer):
    monkeypatch.setattr(snapshots, "_PIECE_BYTES", 2000)  # A few dozen rows at a time.
    fused, base, sizes = fused_tables(optimizer, seed)
    for _ in range(3):
        change(fused, base, sizes, rng)
    before = values_of(fused)
    snapshot, read = Snapshot(fused, budget=1 << 30), []
    for index in range(len(VOCAB)):
        for piece in snapshot.pieces(index):
            read.append(piece)
            change(fused, base, sizes, rng, snapshot)
    for state, expected in before.items():
        found = np.concatenate([piece[state] for piece in read])
        np.testing.assert_array_equal(found, expected)
        assert not np.array_equal(values_of(fused)[state], expected)


def test_pieces_are_the_old_rows_while_another_thread_trains(monkeypatch, rng, seed):
    monkeypatch.setattr(snapshots, "_PIECE_BYTES", 700)
    fused, base, sizes = fused_tables("adagrad", seed)
    before = values_of(fused)
    snapshot, read, steps = Snapshot(fused, budget=1 << 30), [], 0

    def reader():
        read.extend(piece for index in range(len(VOCAB)) for piece in snapshot.pieces(index))

    thread = threading.Thread(target=reader)
    thread.start()
    while thread.is_alive():
        change(fused, base, sizes, rng, snapshot)
        steps += 1
    assert steps > 1
    for state, expected in before.items():
        found = np.concatenate([piece[state] for piece in read])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("ended", [False, True])
def test_before_change_waits_beyond_the_budget_for_the_reader_or_the_end(
    monkeypatch, rng, seed, ended
):
    monkeypatch.setattr(snapshots, "_PIECE_BYTES", 2000)
    fused, base, sizes = fused_tables("sgd", seed)
    before = values_of(fused)["table"]
    snapshot = Snapshot(fused, budget=1)
    change(fused, base, sizes, rng, snapshot)  # Its copies exceed the budget.
    waits = threading.Event()
    arguments = (fused, base, sizes, rng, snapshot, waits.set)
    waiting = threading.Thread(target=change, args=arguments)
    waiting.start()
    assert waits.wait(30)
    waiting.join(timeout=0.3)
    assert waiting.is_alive()
    if ended:
        snapshot.end()
        waiting.join(timeout=30)
        assert not waiting.is_alive()
        return
    pieces = [piece["table"] for index in range(len(VOCAB)) for piece in snapshot.pieces(index)]
    waiting.join(timeout=30)
    assert not waiting.is_alive()
    np.testing.assert_array_equal(np.concatenate(pieces), before)
