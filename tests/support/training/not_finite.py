"""Puts NaN and infinity into every input of a training step and checks that none is lost."""

import numpy as np
import pytest
import tensorflow as tf

from ops import loader
from tests.support.training.small_model import BATCH, DENSE, VOCAB, batches, build, state, train
from training.precision import INITIAL, LossScale
from training.step import Forward

VALUES = (np.nan, np.inf, -np.inf)
# {implementation of the dense part: options of `small_model.build`}
LAYERS = {
    "tensorflow": {},
    "interaction": {"custom_interact": True},
    "xla": {"xla": True},
    "xla_interaction": {"xla": True, "custom_interact": True},
    "fused": {"fused_mlp": True},
    "fused_interaction": {"fused_mlp": True, "custom_interact": True},
}
# (implementation, dtype). The other combinations run the same code.
PATHS = [
    *((layers, "float32") for layers in LAYERS),
    *((layers, "bfloat16") for layers in ("tensorflow", "xla_interaction", "fused_interaction")),
    *((layers, "float16") for layers in ("tensorflow", "xla_interaction")),
]


def _build(layers, dtype, scale, rng):
    """Returns a small model; skips the test if a library is not built."""
    options = LAYERS[layers]
    for option, library in (("custom_interact", "ops"), ("fused_mlp", "mlp")):
        if options.get(option) and not loader.is_built(library):
            pytest.skip(f"the library {library} is not built")
    return build(int(rng.integers(1 << 30)), dtype=dtype, scale=scale, **options)


def with_value(batch, sample, feature, value):
    """Returns the batch with one dense value replaced."""
    dense = batch["dense"].numpy()
    dense[sample, feature] = value
    return dict(batch, dense=tf.constant(dense))


def check_places(layers, dtype, rng):
    """Checks every dense feature, table, kernel and bias.

    The loss of the step must not be finite, and the step must not change any variable. Samples and
    rows are random.
    """
    scale = LossScale(INITIAL if dtype == "float16" else 1.0, skip_nonfinite=True)
    model, embedding, optimizer, step = _build(layers, dtype, scale, rng)
    (batch,) = batches(1, rng)
    assert np.isfinite(train(step, [batch])).all()
    forward = Forward(model, embedding)

    def refused(batch, samples, what):
        before = state(model, embedding, optimizer)
        (loss,) = train(step, [batch])
        assert not np.isfinite(loss), (what, loss)
        for ours, expected in zip(state(model, embedding, optimizer), before):
            assert ours.tobytes() == expected.tobytes(), what
        logits = forward(batch).numpy()[:, 0]
        np.testing.assert_array_equal(np.flatnonzero(~np.isfinite(logits)), samples, str(what))

    for value in VALUES:
        for feature in range(DENSE):
            sample = int(rng.integers(BATCH))
            bad = with_value(batch, sample, feature, value)
            refused(bad, [sample], ("dense", feature, value))
        (holder,) = embedding.fused_tables
        table, ids = holder.table, batch["categorical"].numpy()
        intact = table.numpy()
        firsts = {shard.table: first for shard, first in zip(holder.shards, holder._first_rows)}
        for index in range(len(VOCAB)):
            hit = int(ids[rng.integers(BATCH), index])
            damaged = intact.copy()
            damaged[firsts[index] + hit, rng.integers(intact.shape[1])] = value
            table.assign(damaged)
            refused(batch, np.flatnonzero(ids[:, index] == hit), ("table", index, value))
        table.assign(intact)
    # Only NaN: a ReLU may hide an infinite weight.
    for variable in model.trainable_variables:
        intact = variable.numpy()
        damaged = intact.copy()
        damaged.flat[rng.integers(damaged.size)] = np.nan
        variable.assign(damaged)
        refused(batch, np.arange(BATCH), variable.name)
        variable.assign(intact)
    assert np.isfinite(train(step, [batch])).all()
