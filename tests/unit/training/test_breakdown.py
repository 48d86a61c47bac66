"""`BreakdownStep`: the same training as a fused step, and which time it counts."""

import types

import pytest

from ops import loader
from ops.log_loss.native import MOST_WIDTH
from tests.support.training import small_model
from training import breakdown
from training.breakdown import LAST
from training.config import Config
from training.dense_phases import GpuKernels
from training.modes import train
from training.precision import LossScale
from training.runtime.errors import UserError
from training.runtime.process_group import SingleProcessGroup
from training.step import StepParts

# The last layer is wider than the loss op supports, which has no CPU kernel.
FUSED = {
    "fused_mlp": True, "kernels": GpuKernels(fused=True),
    "sizes": small_model.SMALL._replace(top=(MOST_WIDTH + 8, 1)),
}  # fmt: skip


def breakdown_step(report, seed, device=None, **options):
    """Returns (model, embedding, optimizer, `BreakdownStep`)."""
    model, embedding, optimizer, _ = small_model.build(seed, **options)
    parts = StepParts(
        model, embedding, optimizer, SingleProcessGroup(), LossScale(1.0),
        kernels=options.get("kernels", GpuKernels()),
    )  # fmt: skip
    step = breakdown.BreakdownStep(report, parts, device=device)
    return model, embedding, optimizer, step


# With a GPU, a batch is uploaded and received; here, in memory of the CPU.
@pytest.mark.parametrize(
    ("device", "dense", "phases"),
    [(None, {}, 9), ("GPU:0", {}, 11), (None, FUSED, 10), ("GPU:0", FUSED, 12)],
    ids=["CPU", "uploads", "fused", "fused, uploads"],
)
def test_breakdown_trains_to_the_same_bytes(device, dense, phases, rng, seed):
    if dense and not loader.is_built("mlp"):
        pytest.skip("the library mlp is not built")
    options = {"policy": "row", "compress": True, "embedding_optimizer": "adagrad", **dense}
    made, reports = small_model.batches(LAST + 2, rng), []
    *fused, step = small_model.build(seed, **options)
    expected = small_model.train(step, made)
    *staged, step = breakdown_step(
        lambda **report: reports.append(report), seed, device=device, **options
    )
    assert small_model.train(step, made) == expected
    for ours, theirs in zip(small_model.state(*staged), small_model.state(*fused)):
        assert ours.tobytes() == theirs.tobytes()
    (report,) = reports
    total = sum(phase["milliseconds"] for phase in report["phases"])
    assert report["step_milliseconds"] == pytest.approx(total)
    assert len({phase["name"] for phase in report["phases"]}) == len(report["phases"]) == phases
    assert all(phase["milliseconds"] > 0 for phase in report["phases"])
    assert report["whole_milliseconds"] > 0


def test_breakdown_excludes_evaluations(monkeypatch, rng, seed):
    """With a clock that only the loop moves."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(breakdown.time, "perf_counter", lambda: clock.now)
    reports = []
    *_, step = breakdown_step(lambda **report: reports.append(report), seed)
    for batch in small_model.batches(LAST, rng):
        clock.now += 1  # Waiting for the batch.
        step(batch, 0.1)
        clock.now += 100
        step.pause(100)
    (report,) = reports
    found = {phase["name"]: phase["milliseconds"] for phase in report["phases"]}
    assert found.pop("read and loop") == pytest.approx(1000)
    assert set(found.values()) == {0.0}
    assert report["whole_milliseconds"] == pytest.approx(1000)


@pytest.mark.parametrize(
    ("values", "flag", "bound"),
    [
        ({"profile_steps": "31-40"}, "profile_steps", 30),
        ({"step_breakdown": True, "early_stop": LAST - 1}, "step_breakdown", LAST),
    ],
)
def test_run_with_too_few_steps_is_refused(values, flag, bound):
    with pytest.raises(UserError) as caught:
        train._check_reached(Config().with_values(**values), 30)
    assert (caught.value.flag, caught.value.bound) == (flag, bound)


@pytest.mark.parametrize(("start", "profile", "measured"), [(10, "4-6", False), (9, "10-11", True)])
def test_resumed_run_warns_if_it_measures_nothing(seed, start, profile, measured):
    messages, reports = [], []
    journal = types.SimpleNamespace(emit=lambda kind, text: messages.append(text))
    *_, step = breakdown_step(lambda **report: reports.append(report), seed)
    config = Config().with_values(step_breakdown=True, profile_steps=profile)
    train._report_unreached(config, LAST + 9, start, step, journal)
    if measured:
        assert messages == []
        return
    profiling, breaking_down = messages
    for word in ("--profile_steps=4-6", "step 10"):
        assert word in profiling
    for word in ("--step_breakdown", str(LAST), str(LAST - 1)):
        assert word in breaking_down
