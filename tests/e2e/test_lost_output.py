"""main.py whose standard output or error is lost: the run, its journal and its result are not."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import launch

RUN = (
    "--use_synthetic_dataset", "--vocab_sizes=30,20", "--global_batch_size=8", "--embedding_dim=4",
    "--bottom_mlp=8,4", "--top_mlp=4,1", "--early_stop=60", "--print_interval=1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        ("| head -n 1", "Broken pipe"),
        (">/dev/full 2>/dev/full", None),
        (">&- 2>&- <&-", None),
    ],
)
def test_a_run_goes_on_without_its_output(tmp_path, redirection, said):
    command = [sys.executable, "main.py", *RUN, f"--run_dir={tmp_path}"]
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {redirection}', "bash", *command], cwd=launch.ROOT,
        env=launch.environment(PYTHONUNBUFFERED="1"), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("warning: standard")]
    expected = f"warning: standard output: {said}: the job goes on without it"
    assert lines == ([expected] if said else [])
    assert "Traceback" not in done.stderr
    # All lines are events: what is printed has not gone into the file.
    events = [json.loads(line) for line in (tmp_path / "latest" / "journal.jsonl").open()]
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 61))
    assert json.loads((tmp_path / "latest" / "result.json").read_text())["steps"] == 60


@pytest.mark.parametrize("arguments", [("--help",), ("--mode=plan",)])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_is_there_to_be_read_fails_unread(arguments, unbuffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "main.py", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=launch.ROOT, env=environment, stdout=full,
                              stderr=subprocess.PIPE, text=True, timeout=100)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: standard output: No space left on device\n"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, cwd=launch.ROOT, env=environment, stdout=writing,
                          stderr=subprocess.PIPE, text=True, timeout=100)  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
