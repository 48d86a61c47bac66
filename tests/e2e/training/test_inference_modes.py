"""--mode=evaluate and --mode=inference_benchmark on one rank and on several."""

import json

import pytest

from tests.support import launch
from tests.support.training import checkpoints
from training.modes import inference_benchmark


@pytest.fixture(scope="module")
def checkpoint(small_dataset, tmp_path_factory):
    """A checkpoint of two ranks with Adagrad and an evaluation of the test data."""
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
    [(1, ("--mlp=tensorflow",)), (3, ("--global_batch_size=51", "--placement=row", "--xla"))],
)
def test_evaluate_gives_the_scores_of_training(small_dataset, tmp_path, checkpoint, ranks, flags):
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


def check_rows(result, events, printed, batch):
    (row,) = result["latencies"]
    assert row["batch"] == batch
    assert [e["batch"] for e in events if e["event"] == "latency"] == [batch]
    assert row["calls"] >= 20
    assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p95_ms"] <= row["p99_ms"]
    assert row["samples_per_second"] == pytest.approx(1000 * batch / row["mean_ms"])
    assert inference_benchmark.line_of(row) in printed


def test_benchmark_measures_a_checkpoint_on_test_data(small_dataset, tmp_path, checkpoint):
    # The batch is larger than the 3,001 test samples, so they repeat.
    printed, events, result = run(
        1, tmp_path, "--mode=inference_benchmark", "--batch_sizes=4096", "--custom_interact",
        "--xla", f"--restore={checkpoint}", f"--data_dir={small_dataset}",
    )  # fmt: skip
    check_rows(result, events, printed, 4096)
    assert result["step"] == 30
    assert f"weights: step 30 of {checkpoint}" in printed
    assert f"batches: test data of {small_dataset}" in printed


def test_benchmark_of_two_ranks_takes_random_samples_without_data(tmp_path, rng):
    """Random batches have the number of dense features of the checkpoint."""
    checkpoints.write(tmp_path / "checkpoints", [30, 7], rng, ranks=1)
    printed, events, result = run(
        2, tmp_path / "runs", "--mode=inference_benchmark", "--batch_sizes=4", "--amp",
        f"--checkpoint_dir={tmp_path / 'checkpoints'}",
    )  # fmt: skip
    check_rows(result, events, printed, 4)
    assert result["data"]["dense_features"] == checkpoints.DENSE == 5
    assert result["step"] == 7
    assert "batches: random" in printed
