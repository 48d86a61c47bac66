"""Loss scales, steps that are not finite, and 16-bit arithmetic."""

import numpy as np
import pytest
import tensorflow as tf

from model.embedding import optimizers as row_optimizers
from tests.support.training.small_model import batches, build, state, train
from training import precision
from training.config import SpeedConfig
from training.precision import INITIAL, LossScale
from training.runtime.errors import UserError

YES, NO = tf.constant(True), tf.constant(False)


def speed(**given):
    return SpeedConfig(**{"amp": True, **given})


def scale_of(dtype, *, skip=False, **given):
    return precision.loss_scale(speed(**given), dtype, skip_nonfinite=skip)


def test_static_scale_never_changes():
    scale = LossScale(1024.0)
    assert not scale.skips
    assert not scale.dynamic
    assert float(scale.tensor()) == scale.value() == 1024.0
    scale = LossScale(8.0, skip_nonfinite=True)
    assert scale.skips
    for finite in (YES, NO, NO, YES, NO):
        scale.after_step(finite)
    assert scale.value() == 8.0
    assert scale.skipped() == (3, 1)


def test_overflow_halves_a_dynamic_scale():
    scale = LossScale(INITIAL, dynamic=True)
    assert scale.skips
    for finite, value, skipped in (
        (YES, 32768, (0, 0)), (NO, 16384, (1, 1)), (NO, 8192, (2, 2)), (YES, 8192, (2, 0)),
        (NO, 4096, (3, 1)),
    ):  # fmt: skip
        scale.after_step(finite)
        assert (scale.value(), scale.skipped()) == (value, skipped)
    for _ in range(20):
        scale.after_step(NO)
    assert scale.value() == 1.0


def test_finite_steps_in_a_row_double_a_dynamic_scale(monkeypatch):
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", interval := 5)
    scale = LossScale(INITIAL, dynamic=True)
    run = tf.function(scale.after_step)
    for _ in range(interval - 1):
        run(YES)
    assert scale.value() == 32768
    run(NO)  # Resets the count.
    for _ in range(interval - 1):
        run(YES)
    assert scale.value() == 16384
    run(YES)
    assert scale.value() == 32768
    assert int(scale.variables["good_steps"]) == 0
    scale.variables["loss_scale"].assign(2.0**24)
    scale.variables["good_steps"].assign(interval - 1)
    run(YES)
    assert scale.value() == 2.0**24


@pytest.mark.parametrize(
    ("embedding_optimizer", "bad_value"),
    [
        ("sgd", 3e38),
        # With this option a gradient of 0 changes a row.
        (row_optimizers.OPTIMIZERS["ftrl"].with_options({"initial_accumulator": 0.1}), np.inf),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)  # fmt: skip
def test_overflowing_step_changes_nothing(embedding_optimizer, bad_value, rng, seed):
    """The run continues as if the batch had not existed; halving the scale is exact."""
    made = batches(8, rng)
    bad = dict(made[3], dense=tf.sign(made[3]["dense"]) * np.float32(bad_value))
    runs = []
    for sequence in ([*made[:3], bad, *made[3:]], made):
        scale = LossScale(INITIAL, dynamic=True)
        parts = build(
            seed, scale=scale, optimizer="adam",
            embedding_optimizer=embedding_optimizer,
        )  # fmt: skip
        *owners, step = parts
        initial = state(*owners)
        losses = train(step, sequence[:3], 0.05)
        before = state(*owners)
        if sequence[3] is bad:
            assert not np.isfinite(train(step, [bad], 0.05))
            for ours, expected in zip(state(*owners), before):
                assert ours.tobytes() == expected.tobytes()
            assert (scale.value(), scale.skipped()) == (INITIAL / 2, (1, 1))
        losses += train(step, made[3:], 0.05)
        assert step.mean_loss() == pytest.approx(np.mean(losses), rel=1e-6)
        final = state(*owners)
        # Every variable changes: weights, Adam's averages, tables and their states.
        assert all((a != b).any() for a, b in zip(initial, final))
        runs.append((losses, final))
    (losses, final), (expected_losses, expected) = runs
    assert losses == expected_losses
    for ours, other in zip(final, expected):
        assert ours.tobytes() == other.tobytes()


def test_power_of_two_as_scale_gives_the_same_bytes(rng, seed):
    made, runs = batches(10, rng), []
    for value in (1.0, 1024.0):
        *owners, step = build(seed, scale=LossScale(value), embedding_optimizer="adagrad")
        runs.append((train(step, made), state(*owners)))
    assert runs[0][0] == runs[1][0]
    for ours, expected in zip(runs[1][1], runs[0][1]):
        assert ours.tobytes() == expected.tobytes()


def copy(source, target):
    """Copies weights and tables from one small model to another."""
    for ours, theirs in zip(source[0].trainable_variables, target[0].trainable_variables):
        theirs.assign(ours)
    for ours, theirs in zip(source[1].fused_tables, target[1].fused_tables):
        for name in ours.states:
            getattr(theirs, name).assign(getattr(ours, name))


SIXTEEN_BITS = [
    # Limits of the difference of losses of about 0.7, and of the relative difference of the steps.
    ("float16", lambda: LossScale(INITIAL, dynamic=True), 0.003, 0.1),
    ("bfloat16", lambda: LossScale(1.0), 0.01, 0.15),
]


@pytest.mark.parametrize(("dtype", "scale", "loss_limit", "change_limit"), SIXTEEN_BITS)
def test_step_in_sixteen_bits_is_close_to_float32(
    dtype, scale, loss_limit, change_limit, rng, seed
):
    """Each step starts from the same weights, because rounding differences grow over many steps."""
    scale = scale()
    exact, rounded = build(seed), build(seed, dtype=dtype, scale=scale)
    squares = []
    for batch in batches(20, rng):
        copy(exact, rounded)
        before = state(*exact[:3])
        (expected,), (loss,) = train(exact[3], [batch], 0.3), train(rounded[3], [batch], 0.3)
        assert loss == pytest.approx(expected, abs=loss_limit)
        after = state(*exact[:3])
        squares.append([
            sum(np.sum(np.square(a - b, dtype="f8")) for a, b in zip(after, other)
                if a.dtype == np.float32)  # not the number of the step
            for other in (before, state(*rounded[:3]))
        ])  # fmt: skip
    # Over all steps: rounding may switch a ReLU, which one step shows.
    change, difference = np.sqrt(np.sum(squares, axis=0))
    assert 0 < difference < change_limit * change
    assert scale.skipped() == (0, 0)


def test_configured_precision_and_scale():
    kind = precision.compute_dtype
    assert kind(speed(amp=False), 0) == tf.float32
    assert kind(speed(), 0) == tf.bfloat16
    assert kind(speed(), 1) == tf.float16
    assert kind(speed(custom_interact=True), 1) == tf.float16
    assert kind(speed(amp_dtype="float16"), 0) == tf.float16
    assert kind(speed(amp_dtype="bfloat16"), 1) == tf.bfloat16
    for dtype, value in ((tf.float16, 1024.0), (tf.bfloat16, 1.0), (tf.float32, 1.0)):
        assert scale_of(dtype).value() == value
    assert scale_of(tf.float32, loss_scale="64").value() == 64.0
    assert scale_of(tf.float32, skip=True).skips
    dynamic = scale_of(tf.float16, loss_scale="dynamic")
    assert (dynamic.dynamic, dynamic.skips, dynamic.value()) == (True, True, INITIAL)


def test_float16_interaction_on_a_cpu_is_refused():
    with pytest.raises(UserError) as caught:
        precision.compute_dtype(speed(amp_dtype="float16", custom_interact=True), 0)
    assert caught.value.flag == "amp_dtype"
