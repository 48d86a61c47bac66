"""--mode=evaluate and --mode=inference_benchmark, as a user runs them."""

import json

import numpy as np
import pytest

from tests.support import launch
from tests.support.training import checkpoints
from training.modes import inference_benchmark


@pytest.fixture(scope="module")
def checkpoint(small_dataset, tmp_path_factory):
    """A checkpoint of two ranks with Adagrad, which has scored the test data itself."""
    folder = tmp_path_factory.mktemp("trained")
    done = launch.run(
        2, "main.py", f"--data_dir={small_dataset}", "--global_batch_size=240", "--early_stop=30",
        f"--run_dir={folder / 'runs'}", f"--checkpoint_dir={folder / 'checkpoints'}",
        "--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,1", "--lr=0.3", "--warmup_steps=5",
        "--decay_start_step=0", "--auc_threshold=1", "--eval_in_last", "--optimizer=adagrad",
        "--embedding_optimizer=rowwise_adagrad",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "checkpoints" / "step-000000030"


def run(ranks, folder, *flags):
    done = launch.run(ranks, "main.py", f"--run_dir={folder}", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in (folder / "latest" / "journal.jsonl").open()]
    return done.stdout, events, json.loads((folder / "latest" / "result.json").read_text())


@pytest.mark.parametrize(
    ("ranks", "flags"),
    [(1, ()), (3, ("--global_batch_size=51", "--placement=row", "--xla"))],
)
def test_evaluating_scores_as_training_did(small_dataset, tmp_path, checkpoint, ranks, flags):
    printed, events, result = run(
        ranks, tmp_path, "--mode=evaluate", f"--restore={checkpoint}",
        f"--data_dir={small_dataset}", *flags,
    )  # fmt: skip
    (trained,) = json.loads((checkpoint / "manifest.json").read_text())["evaluations"]
    assert result["auc"] == pytest.approx(trained["auc"], abs=1e-5)
    assert result["log_loss"] == pytest.approx(trained["log_loss"], rel=1e-5)
    assert (result["samples"], result["step"], result["ranks"]) == (3001, 30, ranks)
    assert result["checkpoint"] == str(checkpoint)
    assert f"step 30: AUC {result['auc']:.6f}" in printed
    assert [e["event"] for e in events] == ["config", "message", "evaluation", "end"]


def test_another_model_than_the_checkpoints_is_refused(small_dataset, tmp_path, checkpoint):
    done = launch.run(
        1, "main.py", "--mode=evaluate", f"--restore={checkpoint}", f"--data_dir={small_dataset}",
        f"--run_dir={tmp_path}", "--top_mlp=8,1",
    )  # fmt: skip
    assert done.returncode == 2
    assert "another model: --top_mlp was '16,1', is '8,1'" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ranks", [1, 2])
def test_benchmark_times_each_batch_size(small_dataset, tmp_path, checkpoint, ranks):
    # 3,001 test samples are fewer than the largest batch: they are taken repeatedly.
    flags = ["--mode=inference_benchmark", "--batch_sizes=2,4096", "--custom_interact", "--xla"]
    if ranks == 1:
        flags += [f"--restore={checkpoint}", f"--data_dir={small_dataset}"]
    else:
        flags += ["--vocab_sizes=50,9,4", "--amp", "--embedding_dim=8", "--bottom_mlp=16,8",
                  "--top_mlp=16,1"]  # fmt: skip
    printed, events, result = run(ranks, tmp_path, *flags)
    rows = result["latencies"]
    assert [row["batch"] for row in rows] == [2, 4096]
    assert [e["batch"] for e in events if e["event"] == "latency"] == [2, 4096]
    for row in rows:
        assert row["calls"] >= 20
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p95_ms"] <= row["p99_ms"]
        expected = 1000 * row["batch"] / row["mean_ms"]
        assert row["samples_per_second"] == pytest.approx(expected)
        assert inference_benchmark.line_of(row) in printed
    assert result["step"] == (30 if ranks == 1 else None)
    assert f"weights: {'of step 30' if ranks == 1 else 'initial ones'}" in printed
    assert f"batches: of {'the test data' if ranks == 1 else 'random samples'}" in printed


def test_a_row_is_the_percentiles_of_its_calls():
    seconds = np.random.default_rng().permutation(np.arange(1, 102) / 1000)
    row = inference_benchmark.row_of(510, seconds)
    assert row["calls"] == 101
    for percent in (50, 90, 95, 99):  # 1, 2, ... 101 ms: the p-th of a hundred steps
        assert row[f"p{percent}_ms"] == pytest.approx(1 + percent)
    assert row["mean_ms"] == pytest.approx(51)
    assert row["samples_per_second"] == pytest.approx(10_000)


def test_the_ranks_must_divide_every_size(tmp_path):
    done = launch.run(
        2, "main.py", "--mode=inference_benchmark", "--batch_sizes=4,7", f"--run_dir={tmp_path}"
    )
    assert done.returncode != 0
    assert "7 is not divisible by the 2 ranks" in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_random_batches_have_the_checkpoints_dense_features(tmp_path, rng):
    """Checkpoints of `tests.support.training.checkpoints` take 5."""
    checkpoints.write(tmp_path / "checkpoints", [30, 7], rng, ranks=1)
    _, _, result = run(
        1, tmp_path / "runs", "--mode=inference_benchmark", "--batch_sizes=4",
        f"--checkpoint_dir={tmp_path / 'checkpoints'}",
    )  # fmt: skip
    assert result["data"]["dense_features"] == checkpoints.DENSE == 5
    assert result["step"] == 7
