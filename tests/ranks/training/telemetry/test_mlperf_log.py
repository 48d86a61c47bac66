"""The MLPerf log of a real run: against the journal and MLPerf's own checkers."""

import subprocess
import sys

import pytest

from tests.support.training.telemetry.mlperf_logs import read, values

pytest.importorskip("mlperf_logging")

pytestmark = pytest.mark.launches


def test_compliance_checker_command_accepts_log_of_run(learnable_run):
    done = subprocess.run(
        [sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "training",
         "--ruleset", "2.1.0", "--log_output", str(learnable_run.log.with_suffix(".checked")),
         str(learnable_run.log)],
        text=True, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "SUCCESS" in output and "WARNING" not in output
    assert "training_2.1.0/closed_dlrm.yaml" in output


def test_log_agrees_with_journal(learnable_run):
    lines, events = read(learnable_run.log), learnable_run.events
    evaluations = [record for record in events if record["event"] == "evaluation"]
    assert values(lines, "eval_accuracy") == [record["auc"] for record in evaluations]
    assert evaluations[-1]["auc"] > 0.8025
    assert values(lines, "global_batch_size") == [200]
    assert values(lines, "train_samples") == [6000]
    assert values(lines, "eval_samples") == [1501]
    assert values(lines, "seed") == [12345]
    assert values(lines, "opt_base_learning_rate") == [0.5]
    assert values(lines, "opt_learning_rate_warmup_steps") == [5]
    epochs = len([record for record in events if record["event"] == "epoch"])
    for key in ("block_start", "block_stop", "epoch_start", "epoch_stop"):
        assert len([line for line in lines if line["key"] == key]) == epochs
    (stop,) = (line for line in lines if line["key"] == "run_stop")
    assert stop["metadata"]["status"] == "success"
    assert stop["metadata"]["step_num"] == events[-1]["steps"]


def test_times_of_log_agree_with_journal(learnable_run):
    lines = read(learnable_run.log)
    times = {line["key"]: line["time_ms"] for line in lines}
    assert times["init_start"] < times["init_stop"] <= times["run_start"] < times["run_stop"]
    end = learnable_run.events[-1]
    assert (times["run_stop"] - times["run_start"]) / 1000 == pytest.approx(
        end["total_seconds"], abs=1
    )
    seconds = {"eval_start": 0, "eval_stop": 0}
    for line in lines:
        if line["key"] in seconds:
            seconds[line["key"]] += line["time_ms"]
    spent = (seconds["eval_stop"] - seconds["eval_start"]) / 1000
    evaluations = len(values(lines, "eval_accuracy"))
    assert spent == pytest.approx(end["evaluating_seconds"], abs=0.01 * evaluations)
