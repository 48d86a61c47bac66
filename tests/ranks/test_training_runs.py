"""main.py as a user runs it: one rank and several, to the end and into every kind of trouble."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.support import launch
from tests.unit.dataset.test_feature_spec import Written
from tests.unit.dataset.test_stored_types import float_arrays, raw_dataset

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


@pytest.fixture(scope="module")
def thirty_steps(small_dataset, tmp_path_factory):
    """30 steps of the same job on 1, 2, 3 and 4 ranks: {ranks: (losses, result)}."""
    runs = {}
    for ranks in (1, 2, 3, 4):
        flags = ("--early_stop=30", "--print_interval=1", "--eval_in_last")
        done, events, result = train(
            small_dataset, tmp_path_factory.mktemp(f"runs{ranks}"), ranks, flags=flags
        )
        assert done.returncode == 0, done.stdout + done.stderr
        losses = [event["loss"] for event in events if event["event"] == "step"]
        runs[ranks] = np.array(losses), result, done.stdout
    return runs


def test_any_number_of_ranks_trains_alike(thirty_steps):
    losses, result, _ = thirty_steps[1]
    assert len(losses) == 30
    assert losses[-5:].mean() < losses[:5].mean()
    for ranks in (2, 3, 4):
        np.testing.assert_allclose(thirty_steps[ranks][0], losses, rtol=1e-5)
        assert thirty_steps[ranks][1]["ranks"] == ranks
        assert thirty_steps[ranks][1]["auc"] == pytest.approx(result["auc"], abs=1e-5)
        assert thirty_steps[ranks][1]["log_loss"] == pytest.approx(result["log_loss"], rel=1e-5)


@pytest.fixture(scope="module")
def two_tables(tmp_path_factory):
    """{layout: folder} of the same samples of two tables: fewer than there are ranks."""
    raw = tmp_path_factory.mktemp("raw")
    made = launch.run(
        1, "-m", "dataset.synthetic", "--output", raw, "--train_samples", 3000,
        "--test_samples", 1001, "--vocab_sizes", "40,9",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    folders = {}
    for layout, flags in (("three_file", ()), ("per_table", ("--split_categories",))):
        folders[layout] = tmp_path_factory.mktemp(layout)
        for part in ("train", "test"):
            target = folders[layout] / part
            split = launch.run(1, "split_bin.py", raw / f"{part}_data.bin", target, *flags)
            assert split.returncode == 0, split.stderr
    return folders


@pytest.mark.parametrize(
    ("layout", "flags"),
    [("three_file", ()), ("three_file", ("--compress", "--nooverlap")), ("per_table", ())],
    ids=["ids travel", "compressed", "ids are read"],
)
def test_a_rank_without_tables_takes_part(two_tables, tmp_path, layout, flags):
    """In every exchange, of training and of evaluations: else the others would wait for it."""
    common = ("--early_stop=9", "--eval_interval=4", "--print_interval=1", *flags)
    runs = []
    for ranks in (1, 3):
        done, events, _ = train(two_tables[layout], tmp_path / f"{ranks}", ranks, 60, common, 120)
        assert done.returncode == 0, done.stdout + done.stderr
        losses = [event["loss"] for event in events if event["event"] == "step"]
        scores = [(e["step"], e["auc"]) for e in events if e["event"] == "evaluation"]
        assert [step for step, _ in scores] == [4, 8, 9]
        runs.append((losses, [auc for _, auc in scores]))
    assert len(runs[0][0]) == 9
    np.testing.assert_allclose(runs[1][0], runs[0][0], rtol=1e-5)
    np.testing.assert_allclose(runs[1][1], runs[0][1], atol=1e-4)


def test_every_test_sample_counts_once(thirty_steps, small_dataset, tmp_path):
    """3,001 samples: no rank count divides them and the last batch is partial."""
    done, events, _ = train(
        small_dataset, tmp_path, 2, flags=("--early_stop=2", "--eval_interval=1")
    )
    assert done.returncode == 0, done.stderr
    counts = [event["samples"] for event in events if event["event"] == "evaluation"]
    assert counts == [3001, 3001]


def test_the_table_and_the_result_say_the_same(thirty_steps):
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


def test_evaluates_twenty_times_an_epoch_and_at_the_end(small_dataset, tmp_path):
    done, events, result = train(small_dataset, tmp_path)
    assert done.returncode == 0, done.stderr
    evaluated = [event["step"] for event in events if event["event"] == "evaluation"]
    assert evaluated == [*range(4, 81, 4), 83]  # 20,000 // 240 = 83 steps, every 83 // 20
    assert result["auc"] > 0.55
    assert result["best_auc"] == max(e["auc"] for e in events if e["event"] == "evaluation")


def test_stops_at_the_auc_threshold(small_dataset, tmp_path):
    done, _events, result = train(small_dataset, tmp_path, flags=("--auc_threshold=0.51",))
    assert done.returncode == 0, done.stderr
    assert result["stopped_by"] == "auc_threshold"
    assert result["auc"] > 0.51
    assert result["steps"] < 83
    assert re.search(r"\| exit criteria +\| +AUC > 0.51 \|", done.stdout)


@pytest.mark.parametrize("ranks", [1, 2])
def test_speed_flags_change_no_result(small_dataset, tmp_path, ranks):
    common = ("--early_stop=20", "--eval_in_last", "--print_interval=1")
    _, plain_events, plain = train(small_dataset, tmp_path / "plain", ranks, flags=common)
    flags = ("--xla", "--custom_interact", "--compress", "--placement=row")
    done, events, fast = train(small_dataset, tmp_path / "fast", ranks, flags=(*common, *flags))
    assert done.returncode == 0, done.stderr
    losses, expected = (
        [event["loss"] for event in stream if event["event"] == "step"]
        for stream in (events, plain_events)
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert fast["auc"] == pytest.approx(plain["auc"], abs=1e-4)


def test_mixed_precision_comes_close(small_dataset, tmp_path, thirty_steps):
    flags = ("--early_stop=30", "--eval_in_last", "--print_interval=1", "--amp")
    done, events, _ = train(small_dataset, tmp_path, 2, flags=flags)
    assert done.returncode == 0, done.stderr
    losses = np.array([event["loss"] for event in events if event["event"] == "step"])
    assert np.abs(losses - thirty_steps[1][0]).max() < 0.01
    assert not np.array_equal(losses, thirty_steps[1][0])


def test_synthetic_batches_need_no_data(tmp_path):
    done = launch.run(
        2, "main.py", "--use_synthetic_dataset", "--vocab_sizes=50,9,4", "--global_batch_size=64",
        f"--run_dir={tmp_path}", *SMALL, "--early_stop=5",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "latest" / "result.json").read_text())
    assert result["steps"] == 5
    assert result["auc"] is None
    assert result["samples_per_second"] > 0


@pytest.mark.parametrize(("visible", "warnings"), [("99", 1), ("-1", 0)])
def test_a_gpu_that_is_not_used_is_said_before_training(tmp_path, visible, warnings):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-0)'\n")
    tool.chmod(0o755)
    done = launch.run(
        1, "main.py", "--use_synthetic_dataset", "--vocab_sizes=50,9,4", "--global_batch_size=64",
        f"--run_dir={tmp_path}", *SMALL, "--early_stop=2",
        CUDA_VISIBLE_DEVICES=visible, PATH=f"{tmp_path}:{launch.environment()['PATH']}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = re.findall("^warning: this host has a GPU .*", done.stderr, re.MULTILINE)
    assert len(said) == warnings
    assert re.search(r"\| device +\| +CPU \|", done.stdout)
    result = json.loads((tmp_path / "latest" / "result.json").read_text())
    assert result["versions"]["gpu"] is None


@pytest.mark.parametrize(
    ("ranks", "batch", "flags", "words"),
    [
        (2, 241, (), ["--global_batch_size=241", "2 ranks", "240 and 242"]),
        (1, 30000, (), ["20000 samples", "30000"]),
        (1, 240, ("--memory_per_rank=10KiB", "--placement=table"), ["table 3", "missing"]),
        (1, 240, ("--use_splited_dataset",), ["per_table"]),
        (1, 240, ("--warmup_steps=10", "--decay_start_step=5"), ["decay", "warm-up"]),
    ],
)
def test_a_wrong_job_is_one_line(small_dataset, tmp_path, ranks, batch, flags, words):
    done, _, result = train(small_dataset, tmp_path, ranks, batch, flags)
    assert done.returncode != 0
    assert result is None
    told = [line for line in (done.stdout + done.stderr).splitlines() if "error: " in line]
    assert told, done.stderr
    for word in words:
        assert word in told[0], told[0]
    if ranks == 1:
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_a_model_has_the_dense_features_of_its_data(tmp_path):
    # Ten float32 features, and files outside train/ and test/.
    written = Written(tmp_path / "data", places=("all/a", "all/b"))
    flags = (f"--checkpoint_dir={tmp_path / 'steps'}",)
    done, _, result = train(written.root, tmp_path / "runs", batch=30, flags=flags)
    assert done.returncode == 0, done.stderr
    assert result["steps"] == 3
    described = json.loads(next((tmp_path / "steps").glob("*/manifest.json")).read_text())
    assert described["dense"]["00.kernel"]["shape"] == [10, 16]


def test_raw_data_of_another_type_is_refused(tmp_path):
    raw_dataset(tmp_path / "data", float_arrays())
    done, _, result = train(tmp_path / "data", tmp_path / "runs", batch=30)
    assert done.returncode == 2
    assert result is None
    assert "train_data.bin: dense values: expected int32, found float32" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_data_and_damaged_data(small_dataset, tmp_path):
    done, _, _ = train(tmp_path / "nowhere", tmp_path)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
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
    for word in ("table 2", "5", "7"):
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
    ("victim", "blow", "told"),
    [
        # So does the launcher: the rank that went first, with 128 + the signal's number.
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
        # The other rank ends the job, with the exit code of a lost rank.
        (1, signal.SIGSTOP, r"error: rank 1 \(process {pid} on .*Process name: 0\s+Exit code: 4\s"),
    ],
)
def test_a_lost_rank_is_named_and_ends_the_job(small_dataset, tmp_path, victim, blow, told):
    process, ranks = start_long_job(small_dataset, tmp_path, "--stall_timeout=8")
    try:
        os.kill(ranks[victim].pid, blow)
        began = time.monotonic()
        out, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert time.monotonic() - began < 60
        told = told.replace("{pid}", str(ranks[victim].pid))
        assert re.search(told, out, re.DOTALL), out
    finally:
        for rank in ranks.values():
            if rank.is_running():
                rank.kill()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
