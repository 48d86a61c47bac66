"""The learning rate of row optimizers whose rate depends on the number of the update."""

import numpy as np
import pytest

from model.embedding.optimizers import OPTIMIZERS
from tests.support.model.interaction_checks import arrays_of
from tests.support.reference import ReferenceDLRM
from tests.support.row_optimizers import OPTIONS
from tests.support.training.not_finite import with_value
from tests.support.training.small_model import VOCAB, batches, build, train
from training.precision import LossScale


def tables_of(embedding):
    (holder,) = embedding.fused_tables
    return [holder.read(table, 0, rows) for table, rows in enumerate(VOCAB)]


@pytest.mark.parametrize("skips", [False, True], ids=["", "skips"])
def test_adam_corrects_the_averages_of_rows(skips, rng, seed):
    """By the number of applied steps: a skipped one does not count."""
    adam = OPTIMIZERS["adam"].with_options(OPTIONS["adam"])
    scale = LossScale(1.0, skip_nonfinite=skips)
    model, embedding, _, step = build(seed, embedding_optimizer=adam, scale=scale)
    before = tables_of(embedding)
    reference = ReferenceDLRM(
        arrays_of(model.bottom), arrays_of(model.top), before, "adam", options=OPTIONS["adam"]
    )
    made, rate = batches(6, rng), 0.05
    for batch in made:
        dense, ids, label = (batch[name].numpy() for name in ("dense", "categorical", "label"))
        reference.step(dense, ids, label[:, 0], rate)
    if skips:
        made.insert(2, with_value(made[2], 0, 0, np.nan))
    train(step, made, rate)
    for start, found, expected in zip(before, tables_of(embedding), reference.tables):
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert np.abs(expected - start).max() > 0.01


def test_rate_factor_of_adam_keeps_its_digits():
    import tensorflow as tf

    optimizer = OPTIMIZERS["adam"]
    for beta1, beta2 in ((0.9, 0.999), (0.0, 0.5), (0.999, 0.9999)):
        for update in (1, 2, 10, 1000, 10**7):
            factor = optimizer.rate_factor(tf, tf.constant(update, tf.float32), (beta1, beta2, 0))
            expected = np.sqrt(-np.expm1(update * np.log(beta2)))
            expected /= 1 - beta1**update if beta1 == 0 else -np.expm1(update * np.log(beta1))
            assert float(factor) == pytest.approx(expected, rel=1e-6)
