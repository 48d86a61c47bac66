"""A step taken apart does what a whole one does, and its phases add up."""

import json

import numpy as np
import pytest

from tests import launch
from training.staged_step import LAST

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


def test_a_wrong_range_of_steps_is_said(small_dataset, tmp_path):
    for text in ("5", "9-3", "0-4"):
        done = launch.run(
            1, "main.py", f"--data_dir={small_dataset}", f"--run_dir={tmp_path}", *SMALL,
            f"--profile_steps={text}",
        )  # fmt: skip
        assert done.returncode == 2
        assert f"--profile_steps={text}: expected a range" in done.stderr
