"""Checks of an interaction against a float64 reference."""

import numpy as np
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from tests.support.reference import (
    REFERENCE_INTERACTIONS,
    ReferenceCross,
    ReferenceDLRM,
    cross_layers,
)

BATCH, DENSE, TABLES, BOTTOM, TOP = 4096, 5, 4, (16, 8), (16, 8, 1)
DIMENSION = BOTTOM[-1]


def arrays_of(mlp):
    return [(layer.kernel.numpy(), layer.bias.numpy()) for layer in mlp.dense_layers]


def reference_of(model, tables, name, bags=None):
    """Returns the `ReferenceDLRM` with a dense part's weights."""
    if name == "cross":
        interaction = ReferenceCross(cross_layers(model.interaction.variables))
    else:
        interaction = REFERENCE_INTERACTIONS[name]()
    return ReferenceDLRM(
        arrays_of(model.bottom), arrays_of(model.top), tables, interaction=interaction, bags=bags
    )


def weights_of(reference):
    """Returns a reference's dense weights in the order of `DenseDLRM.variables`."""
    bottom, top = ([w for layer in mlp for w in layer] for mlp in (reference.bottom, reference.top))
    return [w.copy() for w in (*bottom, *reference.interaction.parameters, *top)]


def reference_of_vectors(model, vectors, name):
    """Returns (`ReferenceDLRM`, ids) that look up given vectors [B, T, D]."""
    reference = reference_of(model, list(vectors.swapaxes(0, 1)), name)
    return reference, np.repeat(np.arange(len(vectors))[:, None], vectors.shape[1], axis=1)


def _samples(model, name, rng):
    """Returns (dense features, vectors) of BATCH samples: the half farthest from ReLU's kinks."""
    dense = rng.normal(size=(2 * BATCH, DENSE)).astype(np.float32)
    vectors = rng.normal(size=(2 * BATCH, TABLES, DIMENSION)).astype(np.float32)
    reference, ids = reference_of_vectors(model, vectors, name)
    chosen = np.argsort(-reference.distance_from_kinks(dense, ids))[:BATCH]
    return dense[chosen], tf.constant(vectors[chosen])


def check_logits_and_gradients(name, dtype, seed, rng, **options):
    """Compares logits, gradients and inference of a dense part with `ReferenceDLRM`.

    Args:
        name: of the interaction.
        dtype: "float32" or "bfloat16".
        seed: of the initial weights.
        rng: of dense features and vectors.
        **options: of `DLRMConfig`.
    """
    config = DLRMConfig(
        DENSE, TABLES, BOTTOM, TOP, interaction=name, seed=seed, compute_dtype=dtype, **options
    )
    model = DenseDLRM(config)
    dense, vectors = _samples(model, name, rng)
    # The loss's gradient has one sign, so that sums over the batch do not cancel.
    label = np.zeros(BATCH, np.float32)

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            tape.watch(vectors)
            logits = model(dense, vectors)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(label[:, None], logits)
            loss = tf.reduce_mean(losses)
        sources = [*model.trainable_variables, vectors]
        none = tf.UnconnectedGradients.ZERO
        return logits, tape.gradient(loss, sources, unconnected_gradients=none)

    # Every sample has its own rows, so that a step changes them by the vectors' gradients.
    reference, ids = reference_of_vectors(model, vectors.numpy(), name)
    expected_logits = reference.forward(dense, ids)[:, None]
    before = [*weights_of(reference), np.stack(reference.tables, axis=1)]
    reference.step(dense, ids, label, 1.0)
    after = [*weights_of(reference), np.stack(reference.tables, axis=1)]
    logits, gradients = run()
    tolerance = {"float32": 2e-5, "bfloat16": 0.25}[dtype]

    def close(ours, expected):
        size = np.linalg.norm(expected)
        assert np.linalg.norm(ours.numpy().astype(float) - expected) <= tolerance * size

    assert logits.dtype == tf.float32
    close(logits, expected_logits)
    assert len(gradients) == len(before)
    for variable, gradient, old, new in zip(model.variables, gradients, before, after):
        assert variable.dtype == gradient.dtype == tf.float32
        close(gradient, old - new)
    close(gradients[-1], before[-1] - after[-1])
    assert (np.linalg.norm(before[-1] - after[-1]) == 0) == (name == "none")
    inference = tf.function(lambda: model(dense, vectors, for_inference=True), autograph=False)()
    # Inference kernels add in another order, which changes the last bits of large logits.
    rounding = (1e-6 if dtype == "float32" else 0.01) * np.abs(logits).max()
    np.testing.assert_allclose(inference, logits, rtol=0, atol=rounding)
