"""The optimizers of the MLPs equal a float64 reference with the formulas of Keras 2.15."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.reference import ReferenceDLRM
from tests.support.training.small_model import VOCAB, batches, build, train
from training.optimizers import OPTIMIZERS

STEPS = 25


class SGD:
    def change(self, gradient, rate):
        return rate * gradient


class Adagrad:
    """Duchi et al. 2011: w -= rate g / sqrt(sum of g^2 + epsilon)."""

    def __init__(self):
        self._sum = 0.0

    def change(self, gradient, rate):
        self._sum = self._sum + gradient**2
        return rate * gradient / np.sqrt(self._sum + 1e-8)


class Adam:
    """Kingma and Ba 2015, section 2's more efficient order, with epsilon 1e-7."""

    def __init__(self):
        self._step, self._mean, self._square = 0, 0.0, 0.0

    def change(self, gradient, rate):
        self._step += 1
        self._mean = 0.9 * self._mean + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient**2
        rate *= np.sqrt(1 - 0.999**self._step) / (1 - 0.9**self._step)
        return rate * self._mean / (np.sqrt(self._square) + 1e-7)


REFERENCES = {"sgd": SGD, "adagrad": Adagrad, "adam": Adam}


class Follower(ReferenceDLRM):
    """Starts each step from the trainer's weights, so that rounding does not accumulate."""

    def __init__(self, optimizer):
        self._make, self._dense_optimizers = optimizer, {}

    def begin(self, model, holder):
        """Copies the trainer's weights."""
        bottom, top = (
            [(layer.kernel.numpy(), layer.bias.numpy()) for layer in mlp.dense_layers]
            for mlp in (model.bottom, model.top)
        )
        super().__init__(bottom, top, [holder.read(i, 0, rows) for i, rows in enumerate(VOCAB)])

    def near_a_kink(self, batch):
        """Returns whether a unit is so near zero that float32 may give it another sign."""
        _, bottom, top = self._forward(batch["dense"].numpy(), batch["categorical"].numpy())
        inner = [
            (values, *weights)
            for activations, layers in ((bottom, self.bottom), (top, self.top[:-1]))
            for values, weights in zip(activations, layers)
        ]
        return any(np.abs(x @ kernel + bias).min() < 1e-6 for x, kernel, bias in inner)

    def step(self, batch, rate):
        """Returns (loss, [(expected weights, their change), ...])."""
        before = [weights for layer in (*self.bottom, *self.top) for weights in layer]
        tables = [table.copy() for table in self.tables]
        loss = super().step(
            batch["dense"].numpy(), batch["categorical"].numpy(), batch["label"].numpy()[:, 0], 1.0
        )
        after = [weights for layer in (*self.bottom, *self.top) for weights in layer]
        expected = []
        for index, (old, new) in enumerate(zip(before, after)):
            optimizer = self._dense_optimizers.setdefault(index, self._make())
            change = optimizer.change(old - new, rate)
            expected.append((old - change, change))
        for old, new in zip(tables, self.tables):
            change = rate * (old - new)
            expected.append((old - change, change))
        return loss, expected


@pytest.mark.parametrize(("name", "rate"), [("sgd", 0.2), ("adagrad", 0.02), ("adam", 0.01)])
def test_step_equals_the_reference(name, rate, rng, seed):
    model, embedding, _, step = build(seed, optimizer=name)
    (holder,) = embedding.fused_tables
    assert [shard.table for shard in holder.shards] == list(range(len(VOCAB)))
    reference = Follower(REFERENCES[name])
    errors = []
    for _ in range(STEPS):
        reference.begin(model, holder)
        (batch,) = batches(1, rng)
        while reference.near_a_kink(batch):
            (batch,) = batches(1, rng)
        wanted_loss, expected = reference.step(batch, rate)
        (loss,) = train(step, [batch], rate)
        assert loss == pytest.approx(wanted_loss, rel=2e-6)
        ours = [w.numpy() for mlp in (model.bottom, model.top) for layer in mlp.dense_layers
                for w in (layer.kernel, layer.bias)]  # fmt: skip
        ours += [holder.read(i, 0, rows) for i, rows in enumerate(VOCAB)]
        sizes = [np.linalg.norm(change) for _, change in expected]
        misses = [
            # Only the part that rounding of a float32 weight does not explain.
            np.linalg.norm(np.maximum(np.abs(value - wanted) - 3e-7 * np.abs(wanted), 0))
            for value, (wanted, _) in zip(ours, expected)
        ]
        assert min(sizes) > 0
        assert np.linalg.norm(misses) < 1e-3 * np.linalg.norm(sizes)
        errors.append([*np.divide(misses, sizes), np.linalg.norm(misses) / np.linalg.norm(sizes)])
    # Medians, because rounding decides Adam's direction if a gradient is nearly zero.
    *each, together = np.median(errors, axis=0)
    assert max(each) < 1e-3
    assert together < 2e-5


def shapes_of(rng):
    return [tuple(int(n) for n in rng.integers(1, 9, rank)) for rank in (2, 1, 2, 1)]


@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_equal_the_formula_without_a_second_trace(name, how, rng):
    """Random gradients, many of them 0 or tiny, and another learning rate at each step."""
    initial = [rng.normal(size=shape).astype(np.float32) for shape in shapes_of(rng)]
    variables = [tf.Variable(value) for value in initial]
    optimizer = OPTIMIZERS[name](variables)
    references = [REFERENCES[name]() for _ in variables]
    expected = [value.astype(np.float64) for value in initial]
    moved = [np.zeros(value.shape) for value in initial]
    apply = optimizer.apply
    if how != "eager":
        apply = tf.function(apply, jit_compile=how == "xla", autograph=False)
    for step in range(30):
        rate = np.float32(rng.uniform(0.001, 0.1))
        gradients = [
            (rng.normal(size=value.shape) * 10.0 ** rng.integers(-7, 2, value.shape)
             * rng.integers(0, 2, value.shape)).astype(np.float32)
            for value in initial
        ]  # fmt: skip
        apply([tf.constant(gradient) for gradient in gradients], tf.constant(rate))
        for index, gradient in enumerate(gradients):
            change = references[index].change(gradient.astype(np.float64), float(rate))
            expected[index] = expected[index] - change
            moved[index] += np.abs(change)
        assert int(optimizer.variables[0]) == step + 1
    if how != "eager":
        assert apply.experimental_get_tracing_count() == 1
    for variable, value, distance in zip(variables, expected, moved):
        # Each step rounds a float32 weight of about 1.
        np.testing.assert_allclose(variable.numpy() - value, 0, atol=3e-6)
        assert np.all(np.abs(variable.numpy() - value) <= 2e-5 * distance + 3e-6)
        assert distance.max() > 0.01


@pytest.mark.parametrize(
    ("name", "states"), [("sgd", []), ("adagrad", ["accumulator"]), ("adam", ["m", "v"])]
)
def test_variables_have_the_names_in_checkpoints(name, states):
    variables = [tf.Variable(tf.ones([2, 3]), name="kernel"), tf.Variable([1.0], name="bias")]
    optimizer = OPTIMIZERS[name](variables)
    found = [variable.name for variable in optimizer.variables]
    assert found == [
        "iteration:0", *(f"{state}_{name}:0" for name in ("kernel", "bias") for state in states)
    ]  # fmt: skip
    assert [v.dtype for v in optimizer.variables[1:]] == [tf.float32] * 2 * len(states)
    assert not any(np.any(v.numpy()) for v in optimizer.variables)


def test_apply_refuses_a_missing_gradient():
    optimizer = OPTIMIZERS["sgd"]([tf.Variable(1.0), tf.Variable(2.0)])
    with pytest.raises(ValueError, match=r"2.*1"):
        optimizer.apply([tf.constant(1.0)], tf.constant(0.1))
