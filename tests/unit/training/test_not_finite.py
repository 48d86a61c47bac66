"""NaN and infinity in any input are detected in training, evaluation and serving."""

import types

import numpy as np
import pytest
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.serving import ServingDLRM
from tests.support.thread_ranks import ThreadRanks
from tests.support.training.not_finite import VALUES, with_value
from tests.support.training.small_model import DENSE, VOCAB, batches, build, train
from training.evaluation import ScoresNotFiniteError, evaluate
from training.modes import inference_benchmark
from training.runtime.errors import DivergedError
from training.runtime.process_group import SingleProcessGroup


@pytest.mark.parametrize("value", VALUES)
def test_last_loss_keeps_the_first_loss_that_is_not_finite(value, rng, seed):
    """The loop checks every 20 steps; until then the weights may have become finite again."""
    model, embedding, _optimizer, step = build(seed)
    weights = [variable.numpy() for variable in model.trainable_variables]
    good, bad = batches(2, rng)
    bad = with_value(bad, 3, 1, value)
    losses = train(step, [good, bad])
    assert np.isfinite(losses[0])
    assert not np.isfinite(losses[1])
    for variable, intact in zip(model.trainable_variables, weights):
        variable.assign(intact)
    (holder,) = embedding.fused_tables
    holder.table.assign(tf.where(tf.math.is_finite(holder.table), holder.table, 0.0))
    assert np.isfinite(train(step, [good])[0])
    assert not np.isfinite(step.last_loss())


def test_inference_benchmark_refuses_logits_that_are_not_finite(monkeypatch, rng, seed):
    monkeypatch.setattr(inference_benchmark, "_SECONDS", 0.01)
    monkeypatch.setattr(inference_benchmark, "_WARM_UP_SECONDS", 0.01)
    model, embedding, *_ = build(seed)
    (batch,) = batches(1, rng)
    watch = types.SimpleNamespace(pause=lambda: None, heartbeat=lambda activity: None)
    data = types.SimpleNamespace(one_batch=lambda samples: batch)
    parts = types.SimpleNamespace(data=data, dense_model=model, embedding=embedding)

    def measure():
        return inference_benchmark._measure(parts, SingleProcessGroup(), 16, watch)

    assert len(measure()) >= 20
    model.trainable_variables[0].assign(np.nan * model.trainable_variables[0])
    with pytest.raises(DivergedError, match="16 samples"):
        measure()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("damaged", ["score", "label"])
@pytest.mark.parametrize("auc", ["exact", "binned"])
def test_evaluate_refuses_nan_and_infinity_on_all_ranks(auc, damaged, size, value):
    def body(cluster):
        score = np.linspace(-1, 1, 10, dtype=np.float32)[:, None]
        label = (score > 0.3).astype(np.float32)
        if cluster.rank == size - 1:
            {"score": score, "label": label}[damaged][4] = value
        # The last two rows are padding, with arbitrary values.
        score[8:] = np.nan
        batch = {"score": tf.constant(score), "label": tf.constant(label), "valid": 8}
        data = types.SimpleNamespace(test=lambda: [batch])
        with pytest.raises(ScoresNotFiniteError, match=rf"\b1 of {8 * size} test samples"):
            evaluate(lambda batch: batch["score"], data, cluster, auc=auc)

    ThreadRanks(size).run(body)


class Served:
    """A small model for serving with random weights, and samples for it."""

    def __init__(self, rng):
        def normal(*shape):
            return rng.normal(size=shape).astype(np.float32)

        self.tables = [tf.Variable(normal(rows, 8), trainable=False) for rows in VOCAB]
        dense = DenseDLRM(DLRMConfig(DENSE, len(VOCAB), (16, 8), (16, 1)))
        for variable in dense.variables:
            variable.assign(normal(*variable.shape))
        self.model = ServingDLRM(dense, self.tables)
        self.dense = normal(40, DENSE)
        self.ids = np.stack([rng.integers(0, rows, 40) for rows in VOCAB], axis=1)

    def answer(self):
        answer = self.model.serve(tf.constant(self.dense), tf.constant(self.ids, tf.int64))
        return answer["probability"].numpy()[:, 0]


@pytest.mark.parametrize("value", VALUES)
def test_serving_refuses_or_propagates_nan_and_infinity(value, rng):
    served = Served(rng)
    expected = served.answer()
    assert np.isfinite(expected).all()
    served.dense[17, 3] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match="dense feature 3, sample 17: "):
        served.answer()
    served.dense[17, 3] = 0.5
    intact = served.answer()
    for index, table in enumerate(served.tables):
        row = int(served.ids[23, index])
        rows = table.numpy()
        table.scatter_nd_update([[row, 5]], [value])
        answer, hit = served.answer(), served.ids[:, index] == row
        assert np.isnan(answer[hit]).all()
        np.testing.assert_array_equal(answer[~hit], intact[~hit])
        table.assign(rows)
    for variable in served.model.dense_variables:
        values = variable.numpy()
        variable.assign(np.full_like(values, np.nan))
        assert np.isnan(served.answer()).all()
        variable.assign(values)
    np.testing.assert_array_equal(served.answer(), intact)
