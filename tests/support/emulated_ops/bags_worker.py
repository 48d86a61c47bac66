"""Runs the bag ops' GPU kernels on the emulated GPU and writes their results.

    python3 -m tests.support.emulated_ops.bags_worker FILE SEED CASES

SEED is of the order of the emulation's threads. CASES is JSON: {name: arguments of `problem`}. FILE
(.npz) receives `name/...` of each result of `run`.
"""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from model.embedding.optimizers import OPTIMIZERS
from ops.bags import EMPTY, Bags
from ops.embedding import RowIds, RowRule, embedding_lookup, embedding_update
from ops.side_stream import join_side_stream
from tests.support.row_optimizers import OPTIONS

SIZES = np.array([50, 3, 400], np.int64)
BASES = np.array([410, 0, 3], np.int64)
ROWS, DIMENSION, RATE, SCALE = 470, 32, 0.3, 0.5
BAGS = Bags.of((4, 1, 7), ("mean", "sum", "sum"), (True, False, True))


class Problem(NamedTuple):
    """Inputs of the ops, and what refers to what.

    Attributes:
        rows: [ROWS, DIMENSION].
        states: of the optimizer.
        ids: [B, W] or [n].
        offsets: [B + 1], or None.
        bags: [number of ids] index of each id's bag, b * T + t.
        numbers: row of each id, -1 for an empty slot.
        factors: [B T] factor on a bag's sum.
        gradients: float32 [B, T, DIMENSION].
    """

    rows: np.ndarray
    states: list
    ids: np.ndarray
    offsets: Any
    bags: np.ndarray
    numbers: np.ndarray
    factors: np.ndarray
    gradients: np.ndarray


def problem(seed: int, batch: int, optimizer: str, slots: bool, **_: Any) -> Problem:
    """Returns random inputs.

    Args:
        seed: of the inputs.
        batch: B.
        optimizer: its name.
        slots: tables with `BAGS`, else one table with offsets.
    """
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((ROWS, DIMENSION), dtype=np.float32)
    states = [
        rng.uniform(0.25, 1, state.shape(ROWS, DIMENSION)).astype(np.float32)
        for state in OPTIMIZERS[optimizer].states
    ]
    tables = len(SIZES) if slots else 1
    gradients = rng.standard_normal((batch, tables, DIMENSION), dtype=np.float32)
    if slots:
        features, offsets = np.asarray(BAGS.feature_of_slots()), None
        ids = rng.zipf(1.3, (batch, BAGS.slots)) % SIZES[features]
        of_bag = (np.arange(batch)[:, None] * tables + features).reshape(-1)
        for first, length, variable in zip(BAGS.first_slots, BAGS.hotness, BAGS.variable):
            if variable:
                used = rng.integers(0, length + 1, (batch, 1))
                ids[:, first : first + length][np.arange(length) >= used] = EMPTY
        flat, of_table = ids.reshape(-1), np.tile(features, batch)
    else:
        lengths = rng.integers(0, 9, batch)
        offsets = np.r_[0, np.cumsum(lengths)].astype(np.int32)
        of_bag = np.repeat(np.arange(batch), lengths)
        flat = ids = rng.integers(0, SIZES[0], len(of_bag))
        of_table = np.zeros(len(of_bag), int)
    numbers = np.where(flat >= 0, BASES[of_table] + flat, -1)
    factors = np.ones(batch * tables)
    if slots:
        counts = np.bincount(of_bag[numbers >= 0], minlength=batch * tables)
        mean = np.tile([name == "mean" for name in BAGS.pooling], batch)
        factors[mean] = 1 / np.maximum(counts[mean], 1)
    return Problem(rows, states, ids, offsets, of_bag, numbers, factors, gradients)


def rule_of(optimizer: str, deterministic: bool) -> RowRule:
    """Returns the rule of an optimizer with the options of the tests."""
    values = OPTIMIZERS[optimizer].with_options(OPTIONS.get(optimizer, {})).rule_values
    return RowRule(optimizer, values, deterministic)


def run(inputs: Problem, dtype: str, id_type: str, optimizer: str, deterministic: bool,
        side_stream: bool = False, **_: Any) -> dict[str, np.ndarray]:  # fmt: skip
    """Looks bags up, then updates the rows, in one function.

    Returns:
        {name: array}: float32 `vectors` [B, T, D] before the update, `rows` and `state/k` after it.
    """
    tables = inputs.gradients.shape[1]
    table = tf.Variable(inputs.rows)
    states = [tf.Variable(state) for state in inputs.states]
    gradients = tf.cast(inputs.gradients, dtype)

    @tf.function(autograph=False)
    def step(ids, offsets, gradients):
        bags = BAGS if inputs.offsets is None else None
        where = RowIds(ids, BASES[:tables], SIZES[:tables], bags, offsets)
        vectors = embedding_lookup(table, where, gradients.dtype, side_stream)
        if side_stream:
            (vectors,) = join_side_stream([table], [vectors])
        with tf.control_dependencies([vectors]):
            embedding_update(
                table, states, where, gradients, RATE, SCALE, rule_of(optimizer, deterministic),
                side_stream,
            )  # fmt: skip
        if side_stream:
            join_side_stream([table, *states])
        return vectors

    vectors = step(tf.cast(inputs.ids, id_type), inputs.offsets, gradients)
    return {
        "vectors": tf.cast(vectors, tf.float32).numpy(), "rows": table.numpy(),
        **{f"state/{k}": state.numpy() for k, state in enumerate(states)},
    }  # fmt: skip


def bad_ids() -> dict[str, str]:
    """Returns {name: message}: errors of calls with ids out of range, and of wrong shapes."""
    table = tf.Variable(tf.ones([ROWS, DIMENSION]))
    good = np.zeros((2, BAGS.slots), np.int32)

    def look_up(ids, bags=BAGS, offsets=None):
        tables = 3 if offsets is None else 1
        where = RowIds(ids, BASES[:tables], SIZES[:tables], bags, offsets)
        return embedding_lookup(table, where).numpy()

    def bad(slot, value):
        ids = good.copy()
        ids[1, slot] = value
        vectors = look_up(ids)
        assert not vectors[1, 1].any() and vectors[0].all()
        look_up(good)  # reports it

    def bad_with_offsets():
        look_up(np.array([0, 1, 50], np.int32), None, np.array([0, 2, 3], np.int32))
        look_up(good)

    calls = {
        "too large": lambda: bad(4, 3),
        "empty": lambda: bad(4, EMPTY),
        "offsets": bad_with_offsets,
        "shape": lambda: look_up(good[:, 1:]),
    }
    messages = {}
    for name, call in calls.items():
        try:
            call()
        except (tf.errors.InvalidArgumentError, ValueError) as error:
            messages[name] = str(error)
        look_up(good)
    return messages


def main(file, seed, cases):
    from tests.support.emulated_ops.worker import load_emulated_gpu

    launches = load_emulated_gpu(int(seed))
    results = {}
    for name, options in json.loads(cases).items():
        before = launches()
        for key, value in run(problem(**options), **options).items():
            results[f"{name}/{key}"] = value
        assert (launches() > before) == (options["batch"] > 0), name
    np.savez(file, errors=json.dumps(bad_ids()), **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
