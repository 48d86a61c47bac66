"""Weights and batches with which no ReLU's input is close to 0, for comparisons of training runs.

Near a ReLU's kink a rounding error could switch a unit, which changes all later losses by far more
than rounding. Here, each hidden layer has units that are active for one half of the samples, for
the other half, for all and for none, by the sign of the first dense feature.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ops.bags import EMPTY, Bags
from tests.support.reference import ReferenceCross, ReferenceDLRM, ReferenceDot, cross_layers
from tests.support.training import small_model

#: Two hidden layers in each MLP.
SIZES = small_model.Sizes(
    vocab=(50, 3, 400, 70), bottom=(16, 16, small_model.DIMENSION), top=(16, 16, 1)
)
#: Fixed and variable numbers of ids, with both kinds of pooling.
MULTI_HOT = Bags.of((3, 2, 5, 4), ("sum", "mean", "mean", "sum"), (False, False, True, True))
KINDS = 4  # of units: active where the sign is +, where it is -, always, never
_SIGN, _BIAS = np.asarray([1.0, -1.0, 0.0, 0.0]), np.asarray([0.0, 0.0, 1.0, -1.0])
_STRENGTH, _NOISE = 2.0, 0.03


def _layer(kernel, bias, kinds, noise):
    """Sets a hidden layer's weights, given the kind of each input (None: it has none)."""
    inputs, outputs = kernel.shape
    out = np.arange(outputs) % KINDS
    values = noise.normal(0, _NOISE, (inputs, outputs))
    sources = {sign: [k for k, kind in enumerate(kinds) if kind == sign] for sign in (0, 1)}
    for sign, rows in sources.items():
        for row in rows:
            values[row] += _SIGN[out] * (1 if sign == 0 else -1) / len(rows)
    kernel.assign(values.astype(np.float32))
    bias.assign((_STRENGTH * _BIAS[out] + noise.normal(0, _NOISE, outputs)).astype(np.float32))
    return list(out)


def start(model, embedding, noise: np.random.Generator) -> None:
    """Sets the weights of a model of `SIZES`, and scales its tables down."""
    first, *bottom = model.bottom.dense_layers
    *hidden, last = model.top.dense_layers
    kinds = _layer(first.kernel, first.bias, [None] * SIZES.dense, noise)
    kernel = first.kernel.numpy()
    kernel[0] += _STRENGTH * _SIGN[np.asarray(kinds)]
    first.kernel.assign(kernel)
    for layer in bottom:
        kinds = _layer(layer.kernel, layer.bias, kinds, noise)
    for layer in hidden:
        kinds += [None] * (layer.kernel.shape[0] - len(kinds))
        kinds = _layer(layer.kernel, layer.bias, kinds, noise)
    # Units of a kind cancel, so that no constant error of the logits changes all weights at once.
    signs = np.where(np.arange(last.kernel.shape[0]) // KINDS % 2, -0.3, 0.3)[:, None]
    last.kernel.assign((signs + noise.normal(0, _NOISE, signs.shape)).astype(np.float32))
    last.bias.assign(np.zeros(1, np.float32))
    for kernel in model.interaction.variables:
        kernel.assign(0.3 * kernel.numpy())
    for holder in embedding.fused_tables:
        holder.table.assign(0.3 * holder.table.numpy())


def batches(
    count: int, rng: np.random.Generator, bags: Bags | None = None
) -> list[dict[str, tf.Tensor]]:
    """Returns batches of `SIZES` whose first dense feature is 1 or -1, the others smaller."""
    made = []
    for batch in small_model.batches(count, rng, SIZES):
        dense = 0.5 * np.tanh(batch["dense"].numpy())
        dense[:, 0] = np.where(rng.random(len(dense)) < 0.5, 1, -1)
        made.append(dict(batch, dense=tf.constant(dense)))
        if bags is not None:
            made[-1]["categorical"] = tf.constant(_bags_of_ids(bags, rng))
    return made


def _bags_of_ids(bags, rng):
    """Returns random ids [B, W], frequent ones several times in a bag; some bags are empty."""
    ids = np.empty((SIZES.batch, bags.slots), np.int32)
    for feature, first, rows in zip(bags.each(), bags.first_slots, SIZES.vocab):
        drawn = np.minimum(rng.zipf(1.3, (SIZES.batch, feature.hotness)) - 1, rows - 1)
        if feature.variable:
            used = rng.integers(0, feature.hotness + 1, (SIZES.batch, 1))
            drawn[np.arange(feature.hotness) >= used] = EMPTY
        ids[:, first : first + feature.hotness] = drawn
    return ids


def with_value(batch: dict[str, tf.Tensor], value: float) -> dict[str, tf.Tensor]:
    """Returns the batch with one dense feature replaced."""
    dense = batch["dense"].numpy()
    dense[3, 1] = value
    return dict(batch, dense=tf.constant(dense))


def distance(model, embedding, made, bags: Bags | None = None) -> float:
    """Returns the smallest absolute input of a ReLU, in float64, over finite samples of batches."""
    bottom, top = (
        [(layer.kernel.numpy(), layer.bias.numpy()) for layer in mlp.dense_layers]
        for mlp in (model.bottom, model.top)
    )
    (holder,) = embedding.fused_tables
    rows = holder.table.numpy()
    tables = [
        rows[first : first + shard.rows] for shard, first in zip(holder.shards, holder._first_rows)
    ]
    cross = cross_layers(model.interaction.variables)
    interaction = ReferenceCross(cross) if cross else ReferenceDot()
    reference = ReferenceDLRM(bottom, top, tables, interaction=interaction, bags=bags)
    found = np.inf
    for batch in made:
        dense, ids = batch["dense"].numpy(), batch["categorical"].numpy()
        finite = np.isfinite(dense).all(axis=1)
        found = min(found, reference.distance_from_kinks(dense[finite], ids[finite]).min())
    return float(found)
