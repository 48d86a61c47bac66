"""The dense part's optimizers against float64 NumPy, by the formulas of Keras."""

import numpy as np
import pytest

from tests.reference import ReferenceDLRM
from tests.training.small_model import VOCAB, batches, build, train
from training.job import _OPTIMIZERS


class Adagrad:
    """Duchi et al. 2011: w -= rate g / sqrt(sum of g^2 + epsilon)."""

    def __init__(self):
        self.sums = {}

    def change(self, key, gradient, rate):
        self.sums[key] = self.sums.get(key, 0.0) + gradient**2
        return rate * gradient / np.sqrt(self.sums[key] + 1e-8)


class Adam:
    """Kingma and Ba 2015, section 2's more efficient order, with epsilon 1e-7."""

    def __init__(self):
        self.seen = {}

    def change(self, key, gradient, rate):
        step, mean, square = self.seen.get(key, (0, 0.0, 0.0))
        step += 1
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        self.seen[key] = step, mean, square
        rate *= np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        return rate * mean / (np.sqrt(square) + 1e-7)


class SGD:
    def change(self, key, gradient, rate):
        return rate * gradient


REFERENCES = {"sgd": SGD, "adagrad": Adagrad, "adam": Adam}


class Reference(ReferenceDLRM):
    """Takes the gradients from a step at rate 1 and applies another optimizer's change."""

    def __init__(self, bottom, top, tables, optimizer):
        super().__init__(bottom, top, tables)
        self._dense_optimizer = optimizer

    def step(self, dense, ids, label, learning_rate):
        bottom, top = list(self.bottom), list(self.top)
        tables = [table.copy() for table in self.tables]
        loss = super().step(dense, ids, label, 1.0)
        for name, before, after in (("bottom", bottom, self.bottom), ("top", top, self.top)):
            for layer, (old, new) in enumerate(zip(before, after)):
                after[layer] = tuple(
                    o - self._dense_optimizer.change((name, layer, part), o - n, learning_rate)
                    for part, (o, n) in enumerate(zip(old, new))
                )
        self.tables = [o - learning_rate * (o - n) for o, n in zip(tables, self.tables)]
        return loss


def layers(mlp):
    return [(layer.kernel.numpy(), layer.bias.numpy()) for layer in mlp.dense_layers]


@pytest.mark.parametrize(("name", "rate"), [("sgd", 0.2), ("adagrad", 0.02), ("adam", 0.01)])
def test_equals_the_reference(name, rate):
    made = batches(25)
    seed = int(np.random.default_rng().integers(1 << 30))
    model, embedding, _, step = build(seed, optimizer=_OPTIMIZERS[name]())
    (holder,) = embedding.holders
    tables = [holder.read(i, 0, rows) for i, rows in enumerate(VOCAB)]
    order = [shard.table for shard in holder.shards]
    assert order == sorted(order)
    reference = Reference(layers(model.bottom), layers(model.top), tables, REFERENCES[name]())
    initial = [weights for mlp in (reference.bottom, reference.top) for weights in mlp]
    expected = [
        reference.step(b["dense"].numpy(), b["categorical"].numpy(), b["label"].numpy()[:, 0], rate)
        for b in made
    ]
    losses = train(step, made, rate)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    ours = layers(model.bottom) + layers(model.top)
    final = reference.bottom + reference.top
    for mine, theirs, start in zip(ours, final, initial):
        for value, wanted, first in zip(mine, theirs, start):
            moved = np.linalg.norm(wanted - first)
            assert moved > 0
            assert np.linalg.norm(value - wanted) < 1e-3 * moved
    for table, wanted in enumerate(reference.tables):
        np.testing.assert_allclose(holder.read(table, 0, VOCAB[table]), wanted, atol=1e-5)
