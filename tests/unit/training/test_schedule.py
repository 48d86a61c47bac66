"""The learning-rate schedule: published presets, by hand."""

import math

import pytest

from training.config import TrainingConfig
from training.schedule import LearningRateSchedule


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


@pytest.mark.parametrize(
    ("given", "rates"),
    [
        # 2750, 49315 and 27772 steps at 55,296 are 2320, 41609 and 23432 at 65,536.
        ({}, {1: 24 / 2320, 1160: 12.0, 2320: 24.0, 41609: 24.0, 53325: 6.0, 65041: 0.0}),
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
    schedule = TrainingConfig(**{"global_batch_size": 65536, **given}).learning_rates()
    for step, rate in rates.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-12), step
