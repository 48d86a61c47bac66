"""The explicit gradients of fused MLPs: those of a tape over TensorFlow's layers."""

import numpy as np
import pytest
import tensorflow as tf

from ops import loader
from ops.log_loss.native import MOST_WIDTH, LogLoss
from tests.support.training.small_model import SMALL, batches, build
from training import fused_phases
from training.dense_phases import StepParts, TapeGradients
from training.fused_phases import FusedGradients
from training.phases import run_with_ranges
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup

pytestmark = pytest.mark.skipif(not loader.is_built("mlp"), reason="the library is not built")


def reference_log_loss(hidden, kernel, bias, label, scale, relu):
    """Same as `ops.log_loss.log_loss`, which has no CPU kernel, in NumPy and float64."""
    h, k, b, y = (np.float64(tensor) for tensor in (hidden, kernel, bias, label))
    logits = h @ k + b
    gradient = float(scale) * (1 / (1 + np.exp(-logits)) - y) / len(h)
    hidden_gradient = gradient @ k.T * ((h > 0) if relu else 1)
    results = (
        np.mean(np.logaddexp(0, logits) - y * logits), hidden_gradient, h.T @ gradient,
        gradient.sum(0),
    )  # fmt: skip
    return LogLoss(*(tf.constant(value, tf.float32) for value in results))


def far_from_kinks(model):
    """Makes every second unit active and the others inactive, whatever the sample.

    Near its ReLU's kink, a rounding error could switch a unit.
    """
    for layer in (*model.bottom.dense_layers, *model.top.dense_layers[:-1]):
        layer.kernel.assign(0.1 * layer.kernel)
        layer.bias.assign(1.0 - 2.0 * (np.arange(layer.bias.shape[0]) % 2))


def gradients_of(kind, model, embedding, batch, vectors):
    """Returns (loss, vector gradients, gradients of the variables)."""
    parts = StepParts(model, embedding, None, SingleProcessGroup(), LossScale(64.0))
    first, later = kind(parts).phases(None)
    inputs = {"dense": batch["dense"], "vectors": vectors, "label": batch["label"]}
    values = run_with_ranges((first, *later), inputs)
    assert float(values["loss_scale"]) == 64.0
    return values["loss"], values["vector_gradients"], values["gradients"]


@pytest.mark.parametrize("interaction", ["dot", "native dot", "cat", "cross", "none"])
@pytest.mark.parametrize(
    "top", [(16, 8, 1), (16, 1), (1,), (MOST_WIDTH + 8, 1)],
    ids=["three layers", "two layers", "one layer", "wider than the loss op"],
)  # fmt: skip
def test_gradients_equal_those_of_a_tape(interaction, top, monkeypatch, rng, seed):
    monkeypatch.setattr(fused_phases, "log_loss", reference_log_loss)
    sizes = SMALL._replace(top=top)
    native = interaction == "native dot"
    options = {"interaction": interaction.split()[-1], "custom_interact": native, "sizes": sizes}
    plain, embedding, *_ = build(seed, **options)
    far_from_kinks(plain)
    fused, *_ = build(seed, fused_mlp=True, **options)
    for ours, theirs in zip(fused.variables, plain.variables):
        ours.assign(theirs)
    (batch,) = batches(1, rng, sizes)
    shape = [sizes.batch, len(sizes.vocab), sizes.bottom[-1]]
    vectors = tf.constant(rng.normal(0, 0.1, shape), tf.float32)
    loss, vector_gradients, found = gradients_of(FusedGradients, fused, embedding, batch, vectors)
    expected_loss, expected_vectors, expected = gradients_of(
        TapeGradients, plain, embedding, batch, vectors
    )
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    assert len(found) == len(expected) == len(plain.variables)
    for ours, theirs in zip([vector_gradients, *found], [expected_vectors, *expected]):
        assert ours.shape == theirs.shape
        largest = np.abs(theirs).max()
        assert largest > 0 or interaction == "none"
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest)
