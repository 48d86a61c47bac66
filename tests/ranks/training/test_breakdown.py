"""A step taken apart does what a whole one does, and its phases add up."""

import json
import types

import numpy as np
import pytest

from tests.support import launch
from tests.support.training import small_model
from training import breakdown
from training.breakdown import LAST
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup
from training.step import StepParts

SMALL = (
    "--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,1", "--lr=0.5", "--warmup_steps=5",
    "--decay_start_step=0", "--auc_threshold=1", "--global_batch_size=240", "--print_interval=1",
    "--eval_in_last",
)  # fmt: skip


def train(data, runs, ranks, *flags):
    done = launch.run(ranks, "main.py", f"--data_dir={data}", f"--run_dir={runs}", *SMALL, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    with open(runs / "latest" / "journal.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines], done.stdout


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_same_losses_and_phases_that_add_up(small_dataset, tmp_path, ranks):
    steps = LAST + 5
    flags = (
        f"--early_stop={steps}", "--placement=row", "--compress", "--loss_scale=dynamic",
        "--replicate_below_rows=8", "--embedding_optimizer=adagrad",
    )  # fmt: skip
    whole, _ = train(small_dataset, tmp_path / "whole", ranks, *flags)
    staged, printed = train(
        small_dataset, tmp_path / "staged", ranks, *flags, "--step_breakdown",
        f"--profile_steps={steps - 2}-{steps - 1}",
    )  # fmt: skip
    losses, expected = (
        [event["loss"] for event in events if event["event"] == "step"]
        for events in (staged, whole)
    )
    assert len(losses) == steps
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    (breakdown,) = [event for event in staged if event["event"] == "breakdown"]
    names = [phase["name"] for phase in breakdown["phases"]]
    assert len(set(names)) == len(names) == 9
    for name in names:
        assert name in printed
    total = sum(phase["milliseconds"] for phase in breakdown["phases"])
    assert breakdown["step_milliseconds"] == pytest.approx(total)
    assert all(phase["milliseconds"] > 0 for phase in breakdown["phases"])
    assert breakdown["whole_milliseconds"] > 0
    profiles = list((tmp_path / "staged" / "latest").glob("plugins/profile/*/*.xplane.pb"))
    assert profiles and profiles[0].stat().st_size > 1000
    assert list((tmp_path / "staged" / "latest" / "tensorboard").iterdir())


def test_an_evaluation_is_in_no_phase(monkeypatch):
    """On a clock that only an evaluation moves."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(breakdown.time, "perf_counter", lambda: clock.now)
    model, embedding, optimizer, _ = small_model.build(3)
    told = []
    step = breakdown.BreakdownStep(
        lambda **report: told.append(report),
        StepParts(model, embedding, optimizer, SingleProcessGroup(), LossScale(1.0)),
    )
    for batch in small_model.batches(LAST):
        clock.now += 1  # waiting for the batch
        step(batch, 0.1)
        clock.now += 100
        step.pause(100)
    (report,) = told
    found = {phase["name"]: phase["milliseconds"] for phase in report["phases"]}
    assert found.pop("read and loop") == pytest.approx(1000)
    assert set(found.values()) == {0.0}
    assert report["whole_milliseconds"] == pytest.approx(1000)


def test_a_run_that_goes_on_says_what_it_has_no_steps_for(small_dataset, tmp_path):
    """And ends as without: the command is the one that the run began with."""
    flags = (
        f"--checkpoint_dir={tmp_path}/checkpoints", "--step_breakdown", "--profile_steps=4-6",
        f"--early_stop={LAST + 9}",
    )  # fmt: skip
    train(small_dataset, tmp_path / "first", 1, flags[0], "--early_stop=10")
    events, _printed = train(small_dataset, tmp_path / "second", 1, *flags)
    texts = [event["text"] for event in events if event["event"] == "message"]
    assert "warning: no breakdown: --step_breakdown takes 25 steps, and 24 are left after step 10" \
        in texts  # fmt: skip
    assert (
        "warning: no profile: step 10, after which the run goes on, is beyond --profile_steps=4-6"
        in texts
    )
    assert not [event for event in events if event["event"] == "breakdown"]
    (end,) = [event for event in events if event["event"] == "end"]
    assert end["steps"] == LAST + 9
    # With one step more there are enough.
    events, _ = train(small_dataset, tmp_path / "third", 1, *flags, f"--early_stop={2 * LAST + 9}")
    assert [event for event in events if event["event"] == "breakdown"]


def test_a_wrong_range_of_steps_is_said(small_dataset, tmp_path):
    for text in ("5", "9-3", "0-4"):
        done = launch.run(
            1, "main.py", f"--data_dir={small_dataset}", f"--run_dir={tmp_path}", *SMALL,
            f"--profile_steps={text}",
        )  # fmt: skip
        assert done.returncode == 2
        assert f"--profile_steps={text}: expected a range" in done.stderr
