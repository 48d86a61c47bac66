"""Training runs of main.py on one rank and on several."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

import split_bin
from dataset import synthetic
from tests.support import launch

SMALL = (
    "--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,1", "--lr=0.5", "--warmup_steps=5",
    "--decay_start_step=0", "--auc_threshold=1",
)  # fmt: skip


def train(data, runs, ranks=1, batch=240, flags=(), timeout=240):
    """Runs main.py; returns (CompletedProcess, journal events, result or None)."""
    finished = launch.run(
        ranks, "main.py", f"--data_dir={data}", f"--global_batch_size={batch}",
        f"--run_dir={runs}", *SMALL, *flags, timeout=timeout,
    )  # fmt: skip
    latest = runs / "latest"
    events, result = [], None
    if (latest / "journal.jsonl").exists():
        events = [json.loads(line) for line in (latest / "journal.jsonl").open()]
    if (latest / "result.json").exists():
        result = json.loads((latest / "result.json").read_text())
    return finished, events, result


def losses_of(events):
    return np.array([event["loss"] for event in events if event["event"] == "step"], float)


def evaluations_of(events):
    return [event for event in events if event["event"] == "evaluation"]


THIRTY_STEPS = ("--early_stop=30", "--print_interval=1", "--eval_in_last")
FAST = ("--xla", "--custom_interact", "--dedup_ids", "--placement=row")


@pytest.fixture(scope="module")
def thirty_steps(small_dataset, tmp_path_factory):
    """30 steps of the same job on 1, 2, 3 and 4 ranks: {ranks: (events, result, output)}."""
    runs = {}
    for ranks in (1, 2, 3, 4):
        done, events, result = train(
            small_dataset, tmp_path_factory.mktemp(f"runs{ranks}"), ranks, flags=THIRTY_STEPS
        )
        assert done.returncode == 0, done.stdout + done.stderr
        runs[ranks] = events, result, done.stdout
    return runs


def test_losses_and_scores_do_not_depend_on_the_number_of_ranks(thirty_steps):
    events, result, _ = thirty_steps[1]
    losses = losses_of(events)
    assert len(losses) == 30
    assert losses[-5:].mean() < losses[:5].mean()
    for ranks in (2, 3, 4):
        other_events, other, _ = thirty_steps[ranks]
        np.testing.assert_allclose(losses_of(other_events), losses, rtol=1e-5)
        assert other["ranks"] == ranks
        assert other["auc"] == pytest.approx(result["auc"], abs=1e-5)
        assert other["log_loss"] == pytest.approx(result["log_loss"], rel=1e-5)


def test_every_test_sample_counts_once(thirty_steps):
    """3,001 samples are no multiple of the ranks, and the last batch is partial."""
    for events, _, _ in thirty_steps.values():
        assert [event["samples"] for event in evaluations_of(events)] == [3001]


def test_printed_table_equals_the_result(thirty_steps):
    _, result, printed = thirty_steps[2]
    for row in (
        "batch size", "exit criteria", "frequency of evaluation", "xla", "custom interact", "amp",
        "compress", "training time (minutes)", "evaluating time (minutes)", "total time (minutes)",
        "average time of iteration (ms)", "throughput (samples/second)", "device", "AUC",
        "attainable AUC of this data",
    ):  # fmt: skip
        assert printed.count(f"| {row} ") == 1, row
    assert f"{result['auc']:.6f}" in printed
    assert f"{result['attainable_auc']:.6f}" in printed
    for key in ("loss", "samples_per_second", "ms_per_iteration", "training_seconds", "versions"):
        assert result[key] is not None
    assert result["flags"]["global_batch_size"] == 240


@pytest.mark.parametrize("ranks", [1, 2])
def test_speed_flags_do_not_change_the_result(small_dataset, tmp_path, thirty_steps, ranks):
    plain_events, plain, _ = thirty_steps[ranks]
    done, events, fast = train(small_dataset, tmp_path, ranks, flags=(*THIRTY_STEPS, *FAST))
    assert done.returncode == 0, done.stderr
    losses = losses_of(events)
    np.testing.assert_allclose(losses, losses_of(plain_events), rtol=1e-4)
    assert fast["auc"] == pytest.approx(plain["auc"], abs=1e-4)
    if ranks == 1:
        return
    # Without overlap, the results are the same to the bit.
    flags = (*THIRTY_STEPS, *FAST, "--nooverlap")
    done, events, result = train(small_dataset, tmp_path / "nooverlap", ranks, flags=flags)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(losses_of(events), losses)
    assert (result["auc"], result["log_loss"]) == (fast["auc"], fast["log_loss"])


def test_mixed_precision_is_close_to_float32(small_dataset, tmp_path, thirty_steps):
    done, events, _ = train(small_dataset, tmp_path, 2, flags=(*THIRTY_STEPS, "--amp"))
    assert done.returncode == 0, done.stderr
    losses, expected = losses_of(events), losses_of(thirty_steps[1][0])
    assert np.abs(losses - expected).max() < 0.01
    assert not np.array_equal(losses, expected)


@pytest.fixture(scope="module")
def two_tables(tmp_path_factory):
    """{layout: folder} of the same samples of two tables, fewer than the ranks of a run."""
    raw = tmp_path_factory.mktemp("raw")
    assert not synthetic.main(
        ["--output", str(raw), "--train_samples=3000", "--test_samples=1001", "--vocab_sizes=40,9"]
    )
    folders = {}
    for layout, flags in (("three_file", ()), ("per_table", ("--split_categories",))):
        folders[layout] = tmp_path_factory.mktemp(layout)
        for part in ("train", "test"):
            words = [raw / f"{part}_data.bin", folders[layout] / part, *flags]
            assert not split_bin.main(list(map(str, words)))
    return folders


def test_rank_without_tables_takes_part_in_every_exchange(two_tables, tmp_path):
    runs = {}
    for name, ranks, layout, flags in (
        ("three_file", 1, "three_file", ()),
        ("exchanged ids", 3, "three_file", ()),
        ("distinct ids", 3, "three_file", ("--dedup_ids", "--nooverlap")),
        ("per_table", 1, "per_table", ()),
        ("ids from files", 3, "per_table", ()),
    ):
        flags = ("--early_stop=9", "--eval_interval=4", "--print_interval=1", *flags)
        done, events, _ = train(two_tables[layout], tmp_path / name, ranks, 60, flags, 120)
        assert done.returncode == 0, done.stdout + done.stderr
        scores = evaluations_of(events)
        assert [event["step"] for event in scores] == [4, 8, 9]
        runs[name] = losses_of(events), [event["auc"] for event in scores]
        assert len(runs[name][0]) == 9
        np.testing.assert_allclose(runs[name][0], runs[layout][0], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(runs[name][1], runs[layout][1], atol=1e-4, err_msg=name)


def test_run_evaluates_twenty_times_per_epoch_and_at_the_end(small_dataset, tmp_path):
    done, events, result = train(small_dataset, tmp_path)
    assert done.returncode == 0, done.stderr
    evaluations = evaluations_of(events)
    # 20,000 // 240 = 83 steps; every 83 // 20.
    assert [event["step"] for event in evaluations] == [*range(4, 81, 4), 83]
    assert result["auc"] > 0.55
    assert result["best_auc"] == max(event["auc"] for event in evaluations)
    assert result["versions"]["gpu"] is None
    assert re.search(r"\| device +\| +CPU \|", done.stdout)


def test_synthetic_batches_train_with_an_unused_gpu(tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-0)'\n")
    tool.chmod(0o755)
    done = launch.run(
        2, "main.py", "--use_synthetic_dataset", "--vocab_sizes=50,9,4", "--global_batch_size=64",
        f"--run_dir={tmp_path}", *SMALL, "--early_stop=5",
        CUDA_VISIBLE_DEVICES="99", PATH=f"{tmp_path}:{launch.environment()['PATH']}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: this host has a GPU") == 1
    result = json.loads((tmp_path / "latest" / "result.json").read_text())
    assert result["steps"] == 5
    assert result["auc"] is None
    assert result["samples_per_second"] > 0


def test_error_of_several_ranks_is_one_line(small_dataset, tmp_path):
    done, _, result = train(small_dataset, tmp_path, 2, 241)
    assert done.returncode != 0
    assert result is None
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "error: " in line]
    for word in ("--global_batch_size=241", "2", "240", "242"):
        assert word in lines[0]


def test_id_outside_its_table_is_one_line(small_dataset, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(small_dataset, damaged)
    # The id of table 2 in sample 5, beyond its 7 rows.
    with open(damaged / "train" / "category.bin", "r+b") as file:
        file.seek((5 * 6 + 2) * 4)
        file.write(np.int32(7).tobytes())
    done, _, _ = train(damaged, tmp_path, flags=("--early_stop=2",))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    for word in ("error: ", "table 2", "5", "7"):
        assert word in line, line


def start_long_job(data, runs, *flags):
    """Starts two ranks that train for a long time; returns (process, {rank: process})."""
    arguments = [
        "main.py", f"--data_dir={data}", "--global_batch_size=24", f"--run_dir={runs}", *SMALL,
        "--eval_in_last", "--epochs=1000", *flags,
    ]  # fmt: skip
    process = subprocess.Popen(
        launch.command(2, *arguments, quick=False), cwd=launch.ROOT, env=launch.environment(),
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    journal = runs / "latest" / "journal.jsonl"
    while time.monotonic() < deadline:
        if journal.exists() and journal.read_text().count('"event": "step"') >= 2:
            break
        time.sleep(0.5)
    ranks = launch.ranks_of(process)
    assert sorted(ranks) == [0, 1]
    return process, ranks


@pytest.mark.parametrize(
    ("victim", "number", "expected"),
    [
        # The launcher reports the first rank that ended, with 128 + the number of the signal.
        (
            1,
            signal.SIGKILL,
            r"error: rank 1 \(process {pid} on .*Process name: 1\s+Exit code: 137\s",
        ),
        (
            0,
            signal.SIGKILL,
            r"error: rank 0 \(process {pid} on .*Process name: 0\s+Exit code: 137\s",
        ),
        # The other rank ends the job with the exit code of a lost rank.
        (1, signal.SIGSTOP, r"error: rank 1 \(process {pid} on .*Process name: 0\s+Exit code: 4\s"),
    ],
)
def test_lost_rank_ends_the_job_and_is_named(small_dataset, tmp_path, victim, number, expected):
    process, ranks = start_long_job(small_dataset, tmp_path, "--stall_timeout=8")
    try:
        os.kill(ranks[victim].pid, number)
        began = time.monotonic()
        out, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert time.monotonic() - began < 60
        expected = expected.replace("{pid}", str(ranks[victim].pid))
        assert re.search(expected, out, re.DOTALL), out
    finally:
        for rank in ranks.values():
            if rank.is_running():
                rank.kill()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
