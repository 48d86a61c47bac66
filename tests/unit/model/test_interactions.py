"""Every interaction, and one that is defined here: float64 reference, training, export, planner."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

from model import interactions
from model.dlrm import DenseDLRM, DLRMConfig
from model.interactions import INTERACTIONS, Interaction, Parameter
from ops import loader
from ops.dot_interaction import output_width
from planner.workload import ModelShape
from tests.support import launch
from tests.support.reference import (
    REFERENCE_INTERACTIONS,
    ReferenceDLRM,
    ReferenceInteraction,
)
from tests.support.training import small_model
from training.checkpoint import manifest, restore
from training.checkpoint.reader import Reader
from training.checkpoint.saver import Saver
from training.checkpoint.state import State
from training.modes import export
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup
from training.telemetry.journal import Journal

BATCH, DENSE, TABLES, BOTTOM, TOP = 4096, 5, 4, (16, 8), (16, 8, 1)
DIMENSION = BOTTOM[-1]


class Cross(Interaction):
    """One cross layer, y = x * (x W + b) + x of all vectors (DCN V2, Wang et al. 2021)."""

    name = "cross"
    summary = "one cross layer"

    @property
    def width(self):
        return self.features * self.dimension

    @property
    def flops(self):
        return 3 * 2 * self.width**2

    @property
    def values(self):
        return 10 * self.width

    @property
    def parameters(self):
        deviation = math.sqrt(1 / self.width)
        return (
            Parameter("kernel", (self.width, self.width), deviation),
            Parameter("bias", (self.width,), 0.1),
        )

    def compute(self, bottom, vectors, parameters):
        x = tf.concat([bottom, tf.reshape(vectors, [-1, self.width - self.dimension])], axis=1)
        return x * (tf.matmul(x, parameters["kernel"]) + parameters["bias"]) + x


class ReferenceCross(ReferenceInteraction):
    def __init__(self, kernel, bias):
        super().__init__()
        self.parameters = [kernel.astype(np.float64), bias.astype(np.float64)]

    def forward(self, features, width):
        x = features.reshape(len(features), width)
        kernel, bias = self.parameters
        return x * (x @ kernel + bias) + x

    def backward(self, features, gradient):
        x = features.reshape(gradient.shape)
        kernel, bias = self.parameters
        inner = gradient * x
        change = gradient * (x @ kernel + bias) + gradient + inner @ kernel.T
        return change.reshape(features.shape), [x.T @ inner, inner.sum(0)]


@pytest.fixture(autouse=True)
def cross(monkeypatch):
    monkeypatch.setitem(INTERACTIONS, "cross", Cross)


def arrays_of(mlp):
    return [(layer.kernel.numpy(), layer.bias.numpy()) for layer in mlp.dense_layers]


def reference_of(model, tables, name):
    """Returns the `ReferenceDLRM` with a dense part's weights."""
    if name == "cross":
        interaction = ReferenceCross(*(v.numpy() for v in model.interaction.variables))
    else:
        interaction = REFERENCE_INTERACTIONS[name]()
    return ReferenceDLRM(
        arrays_of(model.bottom), arrays_of(model.top), tables, interaction=interaction
    )


def weights_of(reference):
    """Returns a reference's dense weights in the order of `DenseDLRM.variables`."""
    bottom, top = ([w for layer in mlp for w in layer] for mlp in (reference.bottom, reference.top))
    return [w.copy() for w in (*bottom, *reference.interaction.parameters, *top)]


HOW = {
    "tensorflow": {},
    "xla": {"xla": True},
    "fused": {"fused_mlp": True},
    "native": {"custom_interact": True},
    "native xla": {"custom_interact": True, "xla": True},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "how"),
    [
        (name, how)
        for name in ("dot", "cat", "none", "cross")
        for how in HOW
        if name == "dot" or "custom_interact" not in HOW[how]
    ],
)
def test_logits_and_gradients_equal_the_reference(name, how, dtype):
    options = HOW[how]
    if "fused_mlp" in options and not loader.is_built("mlp"):
        pytest.skip("the library of the MLP ops is not built: it needs oneDNN")
    seed = int(np.random.default_rng().integers(1 << 30))
    print(f"seed {seed}")
    generator = np.random.default_rng(seed)
    config = DLRMConfig(
        DENSE, TABLES, BOTTOM, TOP, interaction=name, seed=seed, compute_dtype=dtype, **options
    )
    model = DenseDLRM(config)
    dense = generator.normal(size=(BATCH, DENSE)).astype(np.float32)
    vectors = tf.constant(generator.normal(size=(BATCH, TABLES, DIMENSION)), tf.float32)
    # Mostly of one sign, so that the gradients' sums over the batch do not cancel.
    label = (generator.random(BATCH) < 0.1).astype(np.float32)

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

    # Every sample has rows of its own, so that a step changes them by the vectors' gradients.
    tables = list(vectors.numpy().swapaxes(0, 1))
    reference = reference_of(model, tables, name)
    ids = np.repeat(np.arange(BATCH)[:, None], TABLES, axis=1)
    expected_logits = reference.forward(dense, ids)[:, None]
    before = [*weights_of(reference), np.stack(reference.tables, axis=1)]
    reference.step(dense, ids, label, 1.0)
    after = [*weights_of(reference), np.stack(reference.tables, axis=1)]
    logits, gradients = run()
    # A unit near zero is on the other side in bfloat16, and all of its gradient is gone or there.
    tolerance = 2e-5 if dtype == "float32" else 0.25

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
    # Other kernels add in another order, which shows in the last bits of the largest logits.
    rounding = (1e-6 if dtype == "float32" else 0.01) * np.abs(logits).max()
    np.testing.assert_allclose(inference, logits, rtol=0, atol=rounding)


@pytest.mark.parametrize("name", ["dot", "cat", "none", "cross"])
def test_shapes_are_known_before_the_model_is_made(name):
    generator = np.random.default_rng()
    tables, dimension = (int(n) for n in generator.integers(1, 12, 2))
    config = DLRMConfig(3, tables, (7, dimension), (6, 1), interaction=name, seed=1)
    model = DenseDLRM(config)
    assert [tuple(v.shape) for v in model.variables] == config.variable_shapes()
    shape = ModelShape((9,) * tables, dimension, 3, (7, dimension), (6, 1), name)
    assert shape.dense_parameters == sum(math.prod(s) for s in config.variable_shapes())
    interaction = config.make_interaction()
    vectors = tf.zeros([2, tables, dimension])
    parameters = {p.name: tf.zeros(p.shape) for p in interaction.parameters}
    made = interaction.compute(tf.zeros([2, dimension]), vectors, parameters)
    assert made.shape == (2, interaction.width)
    if name == "dot":
        assert interaction.width == output_width(tables + 1, dimension)


def test_initial_values_follow_from_the_seed():
    def made(seed):
        config = DLRMConfig(DENSE, TABLES, BOTTOM, TOP, interaction="cross", seed=seed)
        return [v.numpy() for v in DenseDLRM(config).interaction.variables]

    kernel, bias = made(5)
    for ours, again, other in zip((kernel, bias), made(5), made(6)):
        np.testing.assert_array_equal(ours, again)
        assert np.abs(ours - other).min() > 0
    deviation = math.sqrt(1 / (TABLES + 1) / DIMENSION)
    assert np.std(kernel) == pytest.approx(deviation, rel=0.1)
    assert np.abs(bias).max() < 0.5


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("name", ["cat", "cross"])
def test_training_and_serving_equal_the_reference(name, xla, tmp_path):
    seed = int(np.random.default_rng().integers(1 << 30))
    print(f"seed {seed}")
    generator = np.random.default_rng(seed)
    model, embedding, optimizer, step = small_model.build(seed, interaction=name, xla=xla)
    (holder,) = embedding.fused_tables
    vocab = small_model.VOCAB
    read = [holder.read(i, 0, rows) for i, rows in enumerate(vocab)]
    reference = reference_of(model, read, name)
    before = weights_of(reference)
    made = small_model.batches(6, generator)
    losses = small_model.train(step, made, 0.2)
    for loss, batch in zip(losses, made):
        dense, ids, label = (batch[key].numpy() for key in ("dense", "categorical", "label"))
        assert loss == pytest.approx(reference.step(dense, ids, label[:, 0], 0.2), rel=1e-5)
    trained = weights_of(reference)
    assert len(trained) == len(model.variables)
    for ours, old, new in zip(model.variables, before, trained):
        change = np.linalg.norm(new - old)
        assert change > 0
        assert np.linalg.norm(ours.numpy() - new) < 1e-3 * change + 1e-6

    # Its checkpoint restores, and exports.
    folder = save(tmp_path / "checkpoints", name, model, optimizer, embedding)
    reader = Reader(folder, manifest.read(folder)[0])
    other, other_rows, other_optimizer, _ = small_model.build(seed + 1, interaction=name, xla=xla)
    state = State(other, other_optimizer, LossScale(1.0), other_rows, SingleProcessGroup())
    restore.load(reader, state, training=True)
    for ours, theirs in zip(model.variables, other.variables):
        np.testing.assert_array_equal(ours, theirs)
    export.export(reader, tmp_path / "exported", "log(x+1)")
    assert b"IdentityN" not in (tmp_path / "exported" / "saved_model.pb").read_bytes()
    serve = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    (batch,) = small_model.batches(1, generator)
    dense, ids = batch["dense"], tf.cast(batch["categorical"], tf.int64)
    found = serve(dense=dense, categorical=ids)["probability"].numpy()[:, 0]
    expected = 1 / (1 + np.exp(-reference.forward(dense.numpy(), ids.numpy())))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.ptp(found) > 0.01


def save(folder, name, model, optimizer, embedding):
    """Writes a checkpoint of a small model; returns its folder."""
    flags = {
        "embedding_dim": small_model.DIMENSION, "bottom_mlp": "16,8", "top_mlp": "16,1",
        "interaction": name, "ablation": "none", "global_batch_size": small_model.BATCH,
        "optimizer": "sgd", "embedding_optimizer": "sgd",
    }  # fmt: skip
    data = {"layout": "synthetic", "effective_transform": "log(x+1)"}
    facts = {"flags": flags, "data": data, "versions": {"numpy": "x"}}
    cluster = SingleProcessGroup()
    state = State(model, optimizer, LossScale(1.0), embedding, cluster)
    saver = Saver(
        folder, cluster, state, facts, keep=9, interval=None, timeout=30, journal=Journal()
    )
    saver.begin(6, 0, [])
    saver.finish()
    (written,) = folder.glob("step-*")
    return written


def test_ranks_train_alike_and_other_modes_build_the_same_model(small_dataset, tmp_path):
    """With --interaction=cat, on one rank and on two."""
    arrays, scores = [], []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        common = (f"--data_dir={small_dataset}", f"--run_dir={folder / 'runs'}")
        done = launch.run(
            ranks, "main.py", *common, "--global_batch_size=240", "--early_stop=20",
            "--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,1", "--lr=0.5",
            "--warmup_steps=5", "--decay_start_step=0", "--auc_threshold=1", "--eval_in_last",
            "--interaction=cat", f"--checkpoint_dir={folder / 'checkpoints'}",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        trained = json.loads((folder / "runs" / "latest" / "result.json").read_text())
        checkpoint = folder / "checkpoints" / "step-000000020"
        arrays.append([np.load(path) for path in sorted(checkpoint.glob("dense.*.npy"))])
        scores.append(trained["auc"])
    assert [a.shape for a in arrays[0][4:]] == [(7 * 8, 16), (16,), (16, 1), (1,)]
    for one, two in zip(*arrays):
        np.testing.assert_allclose(two, one, rtol=0, atol=2e-5)
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
    done = launch.run(2, "main.py", "--mode=evaluate", f"--restore={checkpoint}", *common)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "runs" / "latest" / "result.json").read_text())
    assert result["auc"] == pytest.approx(scores[1], abs=1e-6)


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="unknown interaction 'fm', expected one of dot, cat, no"):
        DLRMConfig(DENSE, TABLES, BOTTOM, TOP, interaction="fm")
    with pytest.raises(ValueError, match="interaction 'cat' has no native op, which dot has"):
        DLRMConfig(DENSE, TABLES, BOTTOM, TOP, interaction="cat", custom_interact=True)
    for tables, dimension in ((0, 4), (3, 0)):
        with pytest.raises(ValueError, match=f"at least 1 column, got {tables} of {dimension}"):
            interactions.DotInteraction(tables, dimension)
    with pytest.raises(NotImplementedError, match="'none' has no native op"):
        interactions.NoInteraction(3, 4).compute_native(None, None, {})
    for wrong, message in (
        ({"bottom_mlp": ()}, "the bottom MLP has no layer"),
        ({"top_mlp": (4, 2)}, r"must end in one logit, got widths \[4, 2\]"),
        ({"fused_mlp": True, "xla": True}, "not the fused MLP"),
        (
            {"compute_dtype": "mixed_bfloat16"},
            "compute_dtype: expected one of float32, bfloat16, float16, got 'mixed_bfloat16'",
        ),
        ({"fused_mlp": True, "compute_dtype": "float16"}, "float32 and bfloat16, not float16"),
    ):
        options = {"bottom_mlp": BOTTOM, "top_mlp": TOP, **wrong}
        with pytest.raises(ValueError, match=message):
            DLRMConfig(DENSE, TABLES, **options)
