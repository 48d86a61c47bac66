"""The fused MLPs beside TensorFlow's layers: the same training, and who takes which."""

import json

import numpy as np
import pytest
import tensorflow as tf

from ops import loader
from tests.support import launch
from tests.support.training.fixtures import LEARNABLE
from tests.support.training.small_model import batches, build, train
from training.build import fused_mlp
from training.config import SpeedConfig
from training.runtime.errors import UserError

needs_library = pytest.mark.skipif(
    not loader.is_built("mlp"), reason="the library of the MLP ops is not built: it needs oneDNN"
)


def fused(mlp, dtype, gpus, rank, xla=False):
    return fused_mlp(SpeedConfig(mlp=mlp, xla=xla), dtype, gpus, rank)


def gradients(model, batch, vectors):
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        logits = model(batch["dense"], vectors)
        loss = tf.reduce_mean(
            tf.nn.sigmoid_cross_entropy_with_logits(labels=batch["label"], logits=logits)
        )
    found = tape.gradient(loss, [*variables, vectors])
    return float(loss), [tf.cast(g, tf.float64).numpy() for g in found]


@needs_library
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_and_gradients_are_those_of_tensorflows_layers(dtype):
    """Step by step from the same weights: two trainings of their own would drift apart."""
    seed = int(np.random.default_rng().integers(1 << 30))
    fused, _, _, step = build(seed, dtype=dtype, fused_mlp=True)
    plain, *_ = build(seed, dtype=dtype)
    names = [(v.name, v.shape) for v in plain.trainable_variables]
    assert [(v.name, v.shape) for v in fused.trainable_variables] == names
    norm, losses, wrong, size = np.linalg.norm, [], 0.0, 0.0
    for batch in batches(20):
        for ours, theirs in zip(fused.trainable_variables, plain.trainable_variables):
            theirs.assign(ours)
        vectors = tf.cast(tf.random.normal([64, 3, 8]), dtype)
        loss, found = gradients(fused, batch, vectors)
        expected_loss, expected = gradients(plain, batch, vectors)
        losses.append((loss, expected_loss))
        wrong += np.square([norm(ours - theirs) for ours, theirs in zip(found, expected)])
        size += np.square([norm(theirs) for theirs in expected])
        inferred = fused(batch["dense"], vectors, for_inference=True)
        np.testing.assert_array_equal(inferred, fused(batch["dense"], vectors))
        train(step, [batch])
    # Over all batches: a unit whose sign hangs on rounding has another gradient, which one batch
    # with a gradient near zero would show at many times its size.
    loss_limit, limit = {"float32": (1e-5, 0.01), "bfloat16": (0.01, 0.2)}[dtype]
    ours, theirs = np.transpose(losses)
    assert norm(ours - theirs) <= loss_limit * norm(theirs)
    np.testing.assert_array_less(np.sqrt(wrong / size), limit)


@needs_library
def test_a_training_learns_as_with_tensorflows_layers(learnable_data, tmp_path):
    common = (
        f"--data_dir={learnable_data}", *LEARNABLE, "--early_stop=20", "--eval_in_last",
        "--print_interval=1",
    )  # fmt: skip
    losses, results = {}, {}
    for layers in ("fused", "tensorflow"):
        folder = tmp_path / layers
        done = launch.run(
            1, "main.py", *common, f"--mlp={layers}", f"--run_dir={folder}",
            f"--checkpoint_dir={folder / 'checkpoints'}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "TensorFlow's own layers" not in done.stderr
        lines = (folder / "latest" / "journal.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        losses[layers] = [event["loss"] for event in events if event["event"] == "step"]
        results[layers] = json.loads((folder / "latest" / "result.json").read_text())
    np.testing.assert_allclose(losses["fused"], losses["tensorflow"], rtol=1e-3)
    assert results["fused"]["auc"] == pytest.approx(results["tensorflow"]["auc"], abs=1e-3)
    # One's checkpoint is the other's.
    done = launch.run(
        1, "main.py", "--mode=evaluate", f"--data_dir={learnable_data}", "--mlp=tensorflow",
        f"--restore={tmp_path / 'fused' / 'checkpoints'}", f"--run_dir={tmp_path / 'evaluated'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    evaluated = json.loads((tmp_path / "evaluated" / "latest" / "result.json").read_text())
    assert evaluated["auc"] == pytest.approx(results["fused"]["auc"], abs=1e-5)


@needs_library
def test_auto_is_fused_on_a_cpu_where_it_can_be():
    assert fused("auto", tf.float32, 0, 0)
    assert fused("auto", tf.bfloat16, 0, 0)
    assert fused("fused", tf.bfloat16, 0, 0)


def test_auto_is_tensorflow_elsewhere(capsys):
    assert not fused("tensorflow", tf.float32, 0, 0)
    assert not fused("auto", tf.float32, 0, 0, xla=True)
    assert not fused("auto", tf.float32, 1, 0)
    assert not fused("auto", tf.float16, 0, 0)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"--mlp=fused runs on CPUs.*--mlp=tensorflow"):
        fused("fused", tf.float32, 1, 0)
    with pytest.raises(UserError, match=r"--mlp=fused has .*not --amp_dtype=float16"):
        fused("fused", tf.float16, 0, 0)


def test_without_the_library_auto_says_so_once_and_goes_on(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loader, "path", lambda name="ops": tmp_path / f"libdlrm_{name}-tf0.0.so")
    loader.load.cache_clear()
    try:
        assert not fused("auto", tf.float32, 0, 0)
        assert not fused("auto", tf.float32, 0, 1)  # another rank is silent
        said = capsys.readouterr().err
        assert said.count("warning: ") == 1
        assert "pip install --group onednn" in said
        with pytest.raises(loader.LibraryNotBuiltError, match="--group onednn"):
            fused("fused", tf.float32, 0, 0)
    finally:
        loader.load.cache_clear()


def test_fused_under_xla_is_an_error(tmp_path):
    done = launch.run(
        1, "main.py", "--use_synthetic_dataset", "--global_batch_size=64", "--mlp=fused", "--xla",
        f"--run_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 2
    assert "--mlp=fused" in done.stderr
    assert "leave --xla away" in done.stderr
