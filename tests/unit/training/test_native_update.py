"""`NativeUpdate` averages what `DenseUpdate` does, in one buffer, and chooses the same steps."""

import numpy as np
import pytest
import tensorflow as tf

from ops.log_loss.native import MOST_TENSORS
from tests.support.thread_ranks import ThreadRanks
from tests.support.training.small_model import build
from training import native_update
from training.dense_phases import DenseUpdate, GpuKernels, LossRecord, StepParts, gpu_kernels
from training.native_update import NativeUpdate
from training.precision import LossScale

SCALE = 64.0


def reference_all_finite(tensors):
    """Same as `ops.log_loss.all_finite`, which has no CPU kernel."""
    assert 1 <= len(tensors) <= MOST_TENSORS
    assert len({tensor.dtype for tensor in tensors}) == 1
    return tf.constant(all(np.isfinite(tensor).all() for tensor in tensors))


def values_of(rng, rank, wrong):
    """Returns the arguments of `average` on one rank, with a wrong value in `wrong`."""
    gradients = [rng.normal(size=shape).astype(np.float32) for shape in [(3, 4), (4,), (4, 1)]]
    vectors = rng.normal(size=(2, 3, 4)).astype(np.float16)
    loss, votes = np.float32(rng.random()), np.array([rank, 1.0], np.float32)
    place = {"gradient": gradients[1], "vectors": vectors}.get(wrong)
    if place is not None:
        place.reshape(-1)[rng.integers(place.size)] = rng.choice([np.nan, np.inf, -np.inf])
    if wrong == "loss":
        loss = np.float32(np.nan)
    return (
        tf.constant(loss), [tf.constant(g) for g in gradients], tf.constant(vectors),
        tf.constant(SCALE), tf.constant(votes),
    )  # fmt: skip


@pytest.mark.parametrize("wrong", ["nothing", "gradient", "vectors", "loss"])
@pytest.mark.parametrize("skips", [False, True], ids=["", "skips"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_averages_equal_those_of_tensorflows_ops(ranks, skips, wrong, monkeypatch, rng):
    monkeypatch.setattr(native_update, "all_finite", reference_all_finite)
    bad = int(rng.integers(ranks))
    given = [values_of(rng, rank, wrong if rank == bad else None) for rank in range(ranks)]

    def averages(kind):
        def of_rank(cluster):
            scale = LossScale(SCALE, skip_nonfinite=skips)
            parts = StepParts(None, None, None, cluster, scale)
            return kind(parts, LossRecord()).average(*given[cluster.rank])

        return ThreadRanks(ranks).run(of_rank)

    for ours, theirs in zip(averages(NativeUpdate), averages(DenseUpdate)):
        loss, votes, (pieces, scale), finite = ours
        expected_loss, expected_votes, expected, expected_finite = theirs
        assert len(pieces) == (1 if ranks > 1 else len(expected))
        flat = np.concatenate([np.reshape(piece, -1) for piece in pieces]) / float(scale)
        wanted = np.concatenate([np.reshape(gradient, -1) for gradient in expected])
        np.testing.assert_array_equal(flat[: len(wanted)], wanted)
        np.testing.assert_array_equal(loss, expected_loss)
        np.testing.assert_array_equal(votes, expected_votes)
        if skips:
            assert bool(finite) == bool(expected_finite) == (wrong == "nothing")
        else:
            assert finite is expected_finite is None


def test_kernels_are_chosen_by_device_and_model(monkeypatch, seed):
    model, *_ = build(seed)
    monkeypatch.setattr("training.dense_phases.loader.has_cuda", lambda: True)
    assert gpu_kernels(model, None) == GpuKernels()
    assert gpu_kernels(model, "GPU:0") == GpuKernels(fused=False, update=True)
    model.bottom.fused = True
    assert gpu_kernels(model, "GPU:0") == GpuKernels(fused=True, update=True)
    monkeypatch.setattr("training.dense_phases.MOST", len(model.trainable_variables) - 1)
    assert gpu_kernels(model, "GPU:0") == GpuKernels(fused=True, update=False)
    monkeypatch.setattr("training.dense_phases.loader.has_cuda", lambda: False)
    assert gpu_kernels(model, "GPU:0") == GpuKernels()
