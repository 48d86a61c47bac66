import math

import pytest

from training.schedule import PRESETS, LearningRateSchedule


def test_published_schedule_by_hand():
    rate = LearningRateSchedule(24.0, 2750, 49315, 27772)
    assert rate(1) == pytest.approx(24.0 / 2750)
    assert rate(1375) == pytest.approx(12.0)
    assert rate(2750) == 24.0
    assert rate(49315) == 24.0
    assert rate(49316) == pytest.approx(24.0 * (27771 / 27772) ** 2)
    assert rate(49315 + 13886) == pytest.approx(24.0 / 4)
    assert rate(49315 + 27772) == 0.0


def test_never_rises_after_the_decay():
    rate = LearningRateSchedule(24.0, 10, 100, 50, end_rate=0.5)
    rates = [rate(step) for step in range(100, 400)]
    assert all(a >= b for a, b in zip(rates, rates[1:]))
    assert rates[-1] == 0.5
    assert min(rates) == 0.5


def test_no_warmup_and_no_decay():
    rate = LearningRateSchedule(3.0)
    assert [rate(1), rate(10), rate(10**9)] == [3.0, 3.0, 3.0]


def test_steps_scale_with_the_batch():
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
def test_impossible_schedules_are_refused(arguments):
    with pytest.raises(ValueError):
        LearningRateSchedule(**arguments)
