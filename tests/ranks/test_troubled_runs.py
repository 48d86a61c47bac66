"""Runs of main.py with values that are not finite; stops; compilations by XLA."""

import json
import os
import re
import signal

import numpy as np

import split_bin
from tests.ranks.test_training_runs import losses_of, start_long_job, train
from tests.support import launch


def test_loss_that_is_not_finite_ends_the_run(small_dataset, tmp_path):
    flags = ("--lr=1e30", "--print_interval=1", "--loss_scale=8", "--eval_in_last")
    done, events, result = train(small_dataset, tmp_path, flags=flags)
    assert done.returncode == 3
    assert result is None
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for word in ("step 20 ", "learning rate 1e+30", "loss scale 8", "--lr"):
        assert word in line
    losses = losses_of(events)
    assert np.isfinite(losses[0])
    assert np.isnan(losses[-1])
    assert re.search(r"^step \d+/83  loss n/a ", done.stdout, re.MULTILINE)


def test_overflowing_steps_are_skipped_on_all_ranks(small_dataset, tmp_path):
    """In two batches, dense features are the largest float16, so that float16 overflows."""
    for part in ("train", "test"):
        source = small_dataset / "raw" / f"{part}_data.bin"
        assert not split_bin.main([str(source), str(tmp_path / part), "--split_categories"])
    dense = np.memmap(tmp_path / "train" / "dense.bin", np.float16, "r+").reshape(-1, 80, 13)
    dense[[3, 10]] = 65504
    dense.flush()
    flags = ("--amp", "--amp_dtype=float16", "--early_stop=30", "--print_interval=1",
             "--loss_scale=dynamic")  # fmt: skip
    done, events, result = train(tmp_path, tmp_path / "runs", 2, 80, flags)
    assert done.returncode == 0, done.stderr
    assert result["skipped_steps"] == 2
    assert np.isfinite(result["log_loss"])
    assert list(np.flatnonzero(np.isnan(losses_of(events))) + 1) == [4, 11]
    steps = [event for event in events if event["event"] == "step"]
    assert [event["skipped_steps"] for event in steps] == [0] * 3 + [1] * 7 + [2] * 20
    assert steps[-1]["loss_scale"] == 2.0**13


def test_request_to_stop_ends_an_evaluation(small_dataset, tmp_path):
    """The run evaluates 501 batches after each step, which takes nearly all of its time."""
    flags = ("--noeval_in_last", "--eval_interval=1", "--global_batch_size=6", "--epochs=1",
             "--print_interval=1")  # fmt: skip
    process, ranks = start_long_job(small_dataset, tmp_path, *flags)
    os.kill(ranks[1].pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert re.search(r"Process name: \d\s+Exit code: 130\s", out), out
    result = json.loads((tmp_path / "latest" / "result.json").read_text())
    assert result["stopped_by"] == "signal"
    events = [json.loads(line) for line in (tmp_path / "latest" / "journal.jsonl").open()]
    evaluated = [event["step"] for event in events if event["event"] == "evaluation"]
    # The last evaluation was abandoned.
    assert evaluated == list(range(1, result["steps"]))


def test_xla_compiles_each_function_once(small_dataset, tmp_path):
    """Two parts with the interaction op between them; plans differ from step to step."""
    arguments = [
        "main.py", f"--data_dir={small_dataset}", "--global_batch_size=240", "--embedding_dim=8",
        f"--run_dir={tmp_path}", "--bottom_mlp=16,8", "--top_mlp=16,1", "--lr=0.5",
        "--warmup_steps=5", "--decay_start_step=0", "--early_stop=15", "--nocache_eval_data",
        "--eval_in_last", "--xla", "--compress", "--placement=row", "--custom_interact",
    ]  # fmt: skip
    dumped = tmp_path / "xla"
    done = launch.run(1, *arguments, XLA_FLAGS=f"--xla_dump_to={dumped} --xla_dump_hlo_as_text")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "latest" / "result.json").read_text())
    assert result["steps"] == 15
    modules = sorted(path.name for path in dumped.glob("*.before_optimizations.txt"))
    # For each part: forward with gradients, backward, forward of the evaluation.
    backward = [name for name in modules if "_backward_" in name]
    forward = [name for name in modules if ".a_forward_" in name]
    evaluating = [name for name in modules if name not in backward + forward]
    assert [len(backward), len(forward), len(evaluating)] == [2] * 3, modules
