"""The learning-rate schedule: published presets, by hand."""

import math

import pytest

from training.config import TrainingConfig
from training.runtime.errors import UserError
from training.schedule import PRESETS, LearningRateSchedule


def test_schedule_equals_the_published_one():
    rate = LearningRateSchedule(24.0, 2750, 49315, 27772)
    assert rate(1) == pytest.approx(24.0 / 2750)
    assert rate(1375) == pytest.approx(12.0)
    assert rate(2750) == 24.0
    assert rate(49315) == 24.0
    assert rate(49316) == pytest.approx(24.0 * (27771 / 27772) ** 2)
    assert rate(49315 + 13886) == pytest.approx(24.0 / 4)
    assert rate(49315 + 27772) == 0.0


def test_rate_never_rises_after_the_decay():
    rate = LearningRateSchedule(24.0, 10, 100, 50, end_rate=0.5)
    rates = [rate(step) for step in range(100, 400)]
    assert all(a >= b for a, b in zip(rates, rates[1:]))
    assert rates[-1] == 0.5
    assert min(rates) == 0.5


def test_rate_is_constant_without_warmup_and_decay():
    rate = LearningRateSchedule(3.0)
    assert [rate(1), rate(10), rate(10**9)] == [3.0, 3.0, 3.0]


def test_preset_scales_steps_with_the_batch_size():
    assert PRESETS["mlperf"].steps(55296) == (2750, 49315, 27772)
    assert PRESETS["mlperf"].steps(65536) == (2320, 41609, 23432)


@pytest.mark.parametrize(
    "arguments",
    [
        {"base_rate": -1.0},
        {"base_rate": math.inf},
        {"base_rate": math.nan},
        {"base_rate": 1.0, "end_rate": 2.0},
        {"base_rate": 1.0, "warmup_steps": -1},
        {"base_rate": 1.0, "warmup_steps": 10, "decay_start_step": 5},
    ],
)
def test_invalid_schedule_is_refused(arguments):
    with pytest.raises(ValueError):
        LearningRateSchedule(**arguments)


def configured(given):
    return TrainingConfig(**{"global_batch_size": 65536, **given}).learning_rates()


@pytest.mark.parametrize(
    ("given", "rates"),
    [
        # 2750, 49315 and 27772 steps at 55,296 are 2320, 41609 and 23432 at 65,536.
        ({}, {1160: 12.0, 2320: 24.0, 41609: 24.0, 53325: 6.0, 65041: 0.0}),
        # 6400, 64000 and 80000 at 32,768: half as many at 65,536.
        (
            {"schedule": "deeplearningexamples_small"},
            {800: 7.0, 3200: 28.0, 32000: 28.0, 52000: 7.0, 62000: 1.75, 72000: 0.0, 99999: 0.0},
        ),
        # Twice the batch of 65,536: half of 8000, 48000 and 24000.
        (
            {"schedule": "deeplearningexamples_large", "global_batch_size": 131072},
            {1000: 6.0, 4000: 24.0, 24000: 24.0, 30000: 6.0, 33000: 1.5, 36000: 0.0},
        ),
        ({"schedule": "torchrec"}, {1: 15.0, 10**7: 15.0}),
        # Each flag replaces its own number.
        ({"lr": 8.0, "warmup_steps": 4}, {1: 2.0, 4: 8.0, 41609: 8.0, 53325: 2.0}),
        ({"decay_start_step": 0}, {2320: 24.0, 10**7: 24.0}),
        ({"decay_power": 1.0, "end_lr": 3.0}, {53325: 12.0, 64000: 3.0, 65041: 3.0, 10**7: 3.0}),
    ],
)
def test_presets_equal_hand_calculation(given, rates):
    schedule = configured(given)
    for step, rate in rates.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-12), step


def test_contradicting_steps_are_a_user_error():
    with pytest.raises(UserError) as caught:
        configured({"decay_start_step": 10})
    for word in ("--decay_start_step", "--warmup_steps", "10", "2320"):
        assert word in str(caught.value)
