"""main.py without a working standard output: the run completes, with its journal and result."""

import json
import subprocess
import sys

import pytest

from tests.support import launch

RUN = (
    "--use_synthetic_dataset", "--vocab_sizes=30,20", "--global_batch_size=8", "--embedding_dim=4",
    "--bottom_mlp=8,4", "--top_mlp=4,1", "--early_stop=60", "--print_interval=1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("redirection", "reason"), [("| head -n 1", "Broken pipe"), (">&- 2>&- <&-", None)]
)
def test_run_continues_without_its_output(tmp_path, redirection, reason):
    command = [sys.executable, "main.py", *RUN, f"--run_dir={tmp_path}"]
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {redirection}', "bash", *command], cwd=launch.ROOT,
        env=launch.environment(PYTHONUNBUFFERED="1"), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "standard output" in line]
    assert len(lines) == bool(reason)
    assert all(reason in line for line in lines)
    assert "Traceback" not in done.stderr
    # Every line is an event: printed text has not gone into the file.
    events = [json.loads(line) for line in (tmp_path / "latest" / "journal.jsonl").open()]
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 61))
    assert json.loads((tmp_path / "latest" / "result.json").read_text())["steps"] == 60
