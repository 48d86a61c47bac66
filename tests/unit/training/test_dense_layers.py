"""The fused MLPs equal TensorFlow's layers; --mlp selects one of them."""

import numpy as np
import pytest
import tensorflow as tf

from ops import loader
from tests.support.model.interaction_checks import reference_of_vectors
from tests.support.training.small_model import batches, build, train
from training.build import fused_mlp
from training.config import SpeedConfig
from training.runtime.errors import UserError

needs_library = pytest.mark.skipif(
    not loader.is_built("mlp"), reason="the library of the MLP ops is not built (it needs oneDNN)"
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


def far_from_kinks(model, batch, rng):
    """Returns (the samples of a batch with no ReLU's input near 0, random vectors for them)."""
    dense = batch["dense"].numpy()
    vectors = rng.normal(size=[len(dense), 3, 8]).astype(np.float32)
    reference, ids = reference_of_vectors(model, vectors, "dot")
    far = reference.distance_from_kinks(dense, ids) > 1e-4
    return {name: values[far] for name, values in batch.items()}, vectors[far]


@needs_library
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_and_gradients_equal_tensorflows_layers(dtype, rng, seed):
    """Each step starts from the same weights, because rounding differences grow over many steps."""
    fused, _, _, step = build(seed, dtype=dtype, fused_mlp=True)
    plain, *_ = build(seed, dtype=dtype)
    names = [(v.name, v.shape) for v in plain.trainable_variables]
    assert [(v.name, v.shape) for v in fused.trainable_variables] == names
    norm, losses, wrong, size = np.linalg.norm, [], 0.0, 0.0
    for batch in batches(20, rng):
        for ours, theirs in zip(fused.trainable_variables, plain.trainable_variables):
            theirs.assign(ours)
        part, vectors = far_from_kinks(plain, batch, rng)
        vectors = tf.cast(vectors, dtype)
        loss, found = gradients(fused, part, vectors)
        expected_loss, expected = gradients(plain, part, vectors)
        losses.append((loss, expected_loss))
        wrong += np.square([norm(ours - theirs) for ours, theirs in zip(found, expected)])
        size += np.square([norm(theirs) for theirs in expected])
        inferred = fused(part["dense"], vectors, for_inference=True)
        np.testing.assert_array_equal(inferred, fused(part["dense"], vectors))
        train(step, [batch])
    ours, theirs = np.transpose(losses)
    if dtype == "float32":
        assert norm(ours - theirs) <= 1e-6 * norm(theirs)
        np.testing.assert_array_less(np.sqrt(wrong / size), 1e-5)
    else:
        # Rounding to 2^-9 may switch a unit. One variable's gradient shows it, all together do not.
        assert norm(ours - theirs) <= 0.01 * norm(theirs)
        assert np.sqrt(wrong.sum() / size.sum()) < 0.15


@needs_library
def test_auto_selects_fused_on_a_cpu():
    assert fused("auto", tf.float32, 0, 0)
    assert fused("auto", tf.bfloat16, 0, 0)
    assert fused("fused", tf.bfloat16, 0, 0)


@pytest.fixture
def cuda(monkeypatch):
    """Returns a function that sets whether the op library has CUDA kernels."""

    def select(has_cuda):
        monkeypatch.setattr(loader, "has_cuda", lambda: has_cuda)
        # A GPU needs no oneDNN.
        monkeypatch.setattr(loader, "load", lambda name="ops": pytest.fail(f"loaded {name}"))

    return select


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16], ids=lambda d: d.name)
def test_auto_selects_fused_on_a_gpu(dtype, cuda, capsys):
    cuda(True)
    assert fused("auto", dtype, 1, 0)
    assert fused("fused", dtype, 1, 0)
    assert not fused("tensorflow", dtype, 1, 0)
    assert not fused("auto", dtype, 1, 0, xla=True)
    assert capsys.readouterr().err == ""


def test_library_without_cuda_kernels_does_not_serve_a_gpu(cuda, capsys):
    cuda(False)
    assert not fused("auto", tf.float16, 1, 0)
    (line,) = capsys.readouterr().err.splitlines()
    assert "TensorFlow's layers" in line
    assert "CUDA" in line
    assert not fused("auto", tf.float16, 1, 1)  # Only rank 0 warns.
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"--mlp=fused: .*CUDA.* --mlp=tensorflow") as caught:
        fused("fused", tf.float16, 1, 0)
    assert caught.value.flag == "mlp"


def test_auto_selects_tensorflow_elsewhere(capsys):
    assert not fused("tensorflow", tf.float32, 0, 0)
    assert not fused("auto", tf.float32, 0, 0, xla=True)
    assert not fused("auto", tf.float16, 0, 0)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"--mlp=fused: .*float16.* --mlp=tensorflow"):
        fused("fused", tf.float16, 0, 0)


def test_auto_warns_once_if_the_library_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loader, "path", lambda name="ops": tmp_path / f"libdlrm_{name}-tf0.0.so")
    loader.load.cache_clear()
    try:
        assert not fused("auto", tf.float32, 0, 0)
        assert not fused("auto", tf.float32, 0, 1)  # Only rank 0 warns.
        assert capsys.readouterr().err.count("warning: ") == 1
        assert not fused("auto", tf.float16, 1, 0)
        assert capsys.readouterr().err.count("warning: ") == 1
        for gpus in (0, 1):
            with pytest.raises(loader.LibraryNotBuiltError):
                fused("fused", tf.float32, gpus, 0)
    finally:
        loader.load.cache_clear()
