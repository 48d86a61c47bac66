"""Interactions compiled by XLA, and through training, checkpoint and export."""

import numpy as np
import pytest
import tensorflow as tf

from ops import loader
from tests.support.model.interaction_checks import (
    check_logits_and_gradients,
    reference_of,
    weights_of,
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


@pytest.mark.parametrize(
    ("name", "dtype", "options"),
    [
        ("dot", "float32", {}),
        ("dot", "bfloat16", {"custom_interact": True}),
        ("cat", "bfloat16", {}),
        ("none", "float32", {}),
        ("cross", "float32", {"cross_rank": 5}),
        ("cross", "bfloat16", {"cross_rank": 0, "cross_layers": 1}),
    ],
)
def test_compiled_logits_and_gradients_match_the_reference(name, dtype, options, seed, rng):
    check_logits_and_gradients(name, dtype, seed, rng, xla=True, **options)


def far_from_kinks(reference, *batches):
    """Returns a batch of the samples of two that are farthest from ReLU's kinks."""
    drawn = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    distance = reference.distance_from_kinks(drawn["dense"], drawn["categorical"])
    chosen = np.argsort(-distance)[: small_model.BATCH]
    return {key: tf.constant(values[chosen]) for key, values in drawn.items()}


CROSS = {"cross_layers": 2, "cross_rank": 6}


@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("cat", {}, 6),
        ("cross", {**CROSS, "xla": True}, 6),
        ("cross", {"cross_rank": 0}, 6),
        ("cross", {**CROSS, "fused_mlp": True}, 20),
    ],
)
def test_training_checkpoint_and_export_match_the_reference(
    name, options, steps, tmp_path, seed, rng
):
    if "fused_mlp" in options and not loader.is_built("mlp"):
        pytest.skip("the library of the MLP ops is not built: it needs oneDNN")
    model, embedding, optimizer, step = small_model.build(seed, interaction=name, **options)
    (holder,) = embedding.fused_tables
    vocab = small_model.VOCAB
    read = [holder.read(i, 0, rows) for i, rows in enumerate(vocab)]
    reference = reference_of(model, read, name)
    before = weights_of(reference)
    for _ in range(steps):
        batch = far_from_kinks(reference, *small_model.batches(2, rng))
        (loss,) = small_model.train(step, [batch], 0.2)
        dense, ids, label = (batch[key].numpy() for key in ("dense", "categorical", "label"))
        assert loss == pytest.approx(reference.step(dense, ids, label[:, 0], 0.2), rel=1e-5)
    trained = weights_of(reference)
    assert len(trained) == len(model.variables)
    for ours, old, new in zip(model.variables, before, trained):
        change = np.linalg.norm(new - old)
        assert change > 0
        assert np.linalg.norm(ours.numpy() - new) < 1e-3 * change + 1e-6

    shape = {k: v for k, v in options.items() if k.startswith("cross")}
    folder = save(tmp_path / "checkpoints", name, shape, model, optimizer, embedding)
    reader = Reader(folder, manifest.read(folder)[0])
    other, other_rows, other_optimizer, _ = small_model.build(seed + 1, interaction=name, **options)
    state = State(other, other_optimizer, LossScale(1.0), other_rows, SingleProcessGroup())
    restore.load(reader, state, training=True)
    for ours, theirs in zip(model.variables, other.variables):
        np.testing.assert_array_equal(ours, theirs)
    export.export(reader, tmp_path / "exported", "log(x+1)")
    assert b"IdentityN" not in (tmp_path / "exported" / "saved_model.pb").read_bytes()
    serve = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    (batch,) = small_model.batches(1, rng)
    dense, ids = batch["dense"], tf.cast(batch["categorical"], tf.int64)
    found = serve(dense=dense, categorical=ids)["probability"].numpy()[:, 0]
    expected = 1 / (1 + np.exp(-reference.forward(dense.numpy(), ids.numpy())))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.ptp(found) > 1e-3


def save(folder, name, shape, model, optimizer, embedding):
    """Writes a checkpoint of a small model; returns its folder."""
    flags = {
        "embedding_dim": small_model.DIMENSION, "bottom_mlp": "16,8", "top_mlp": "16,1",
        "interaction": name, "ablation": "none", **shape, "global_batch_size": small_model.BATCH,
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
