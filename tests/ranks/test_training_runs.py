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

from dataset import synthetic
from tests.support import launch
from tests.support.dataset.fixtures import VOCAB
from tests.support.dataset.hand_written import Arrays, write_mlperf
from tests.support.training.checkpoints import start_active

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
def thirty_steps(small_dataset, tmp_path_factory, shared_rng):
    """30 steps of the same job: {name of a case: (events, result, output)}."""
    runs, weights = {}, tmp_path_factory.mktemp("weights")
    same = (*THIRTY_STEPS, *start_active(weights, VOCAB, shared_rng("thirty_steps")))
    for name, ranks, flags in (
        ("1", 1, ()), ("2", 2, ()), ("3", 3, ()), ("fast", 2, FAST), ("amp", 2, ("--amp",)),
    ):  # fmt: skip
        folder = tmp_path_factory.mktemp(f"runs_{name}")
        done, events, result = train(small_dataset, folder, ranks, flags=(*same, *flags))
        assert done.returncode == 0, done.stdout + done.stderr
        assert result["ranks"] == ranks
        runs[name] = events, result, done.stdout
    return runs


# 32 bits round losses by 1e-7, and a changed order of near scores the AUC; 16 bits differ.
@pytest.mark.parametrize(
    ("name", "rtol", "atol"), [("2", 1e-5, 0), ("3", 1e-5, 0), ("fast", 1e-5, 0), ("amp", 0, 0.05)]
)
def test_losses_and_scores_equal_those_of_one_rank(thirty_steps, name, rtol, atol):
    """Of other numbers of ranks, with flags that only change the speed, and with --amp."""
    events, result, _ = thirty_steps["1"]
    losses = losses_of(events)
    assert len(losses) == 30
    other_events, other, _ = thirty_steps[name]
    np.testing.assert_allclose(losses_of(other_events), losses, rtol=rtol, atol=atol)
    assert name != "amp" or not np.array_equal(losses_of(other_events), losses)
    assert other["auc"] == pytest.approx(result["auc"], abs=10 * rtol + atol)
    assert other["log_loss"] == pytest.approx(result["log_loss"], rel=rtol, abs=atol)


def test_every_test_sample_counts_once(thirty_steps):
    """3,001 samples are no multiple of the ranks, and the last batch is partial."""
    for events, _, _ in thirty_steps.values():
        assert [event["samples"] for event in evaluations_of(events)] == [3001]


def test_printed_table_equals_the_result(thirty_steps):
    _, result, printed = thirty_steps["2"]
    for row in (
        "batch size", "exit criteria", "frequency of evaluation", "xla", "custom interact", "amp",
        "compress", "training time (minutes)", "evaluating time (minutes)", "total time (minutes)",
        "average time of iteration (ms)", "throughput (samples/second)", "device", "AUC",
        "attainable AUC of this data",
    ):  # fmt: skip
        assert printed.count(f"| {row} ") == 1, row
    assert re.search(r"\| device +\| +CPU \|", printed)
    assert f"{result['auc']:.6f}" in printed
    assert f"{result['attainable_auc']:.6f}" in printed
    for key in ("loss", "samples_per_second", "ms_per_iteration", "training_seconds", "versions"):
        assert result[key] is not None
    assert result["flags"]["global_batch_size"] == 240


def test_rank_without_tables_takes_part_in_every_exchange(tmp_path, rng):
    """Two tables on three ranks. Ids come from raw records, or from the files of one table."""
    raw, separate = tmp_path / "raw", tmp_path / "separate"
    assert not synthetic.main(
        ["--output", str(raw), "--train_samples=3000", "--test_samples=1001", "--vocab_sizes=40,9"]
    )
    for part in ("train", "test"):
        records = np.fromfile(raw / f"{part}_data.bin", np.int32).reshape(-1, 16)
        arrays = Arrays(records[:, 0], records[:, 1:14], records[:, 14:])
        write_mlperf(separate / part, arrays)
    shutil.copy(raw / "vocab_sizes.json", separate)
    weights = start_active(tmp_path / "weights", [40, 9], rng)
    expected = None
    for name, ranks, data, flags in (
        ("one rank", 1, raw, ()),
        ("exchanged ids", 3, raw, ()),
        ("distinct ids", 3, raw, ("--dedup_ids", "--nooverlap")),
        ("ids from files", 3, separate, ()),
    ):
        flags = ("--early_stop=9", "--eval_interval=4", "--print_interval=1", *weights, *flags)
        done, events, _ = train(data, tmp_path / name, ranks, 60, flags, 120)
        assert done.returncode == 0, done.stdout + done.stderr
        scores = evaluations_of(events)
        assert [event["step"] for event in scores] == [4, 8, 9]
        losses = [*losses_of(events), *(event["log_loss"] for event in scores)]
        aucs = [event["auc"] for event in scores]
        expected = expected or (losses, aucs)
        np.testing.assert_allclose(losses, expected[0], rtol=1e-5, err_msg=name)
        # One pair of 300,000 in the other order changes the AUC by 5e-6.
        np.testing.assert_allclose(aucs, expected[1], atol=1e-3, err_msg=name)


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


# The launcher reports the first rank that ended: a killed one with 128 + the number of the signal,
# else the other one with the exit code of a lost rank.
@pytest.mark.parametrize(
    ("victim", "number", "first", "code"),
    [
        pytest.param(1, signal.SIGKILL, 1, 137, marks=pytest.mark.slow),
        (0, signal.SIGKILL, 0, 137),
        (1, signal.SIGSTOP, 0, 4),
    ],
)
def test_lost_rank_ends_the_job_and_is_named(small_dataset, tmp_path, victim, number, first, code):
    process, ranks = start_long_job(small_dataset, tmp_path, "--stall_timeout=8")
    try:
        os.kill(ranks[victim].pid, number)
        out, _ = process.communicate(timeout=240)
        assert process.returncode != 0
        lost = rf"error: rank {victim} \(process {ranks[victim].pid} on "
        assert re.search(rf"{lost}.*Process name: {first}\s+Exit code: {code}\s", out, re.DOTALL), (
            out
        )
    finally:
        for rank in ranks.values():
            if rank.is_running():
                rank.kill()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
