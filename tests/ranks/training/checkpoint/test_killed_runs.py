"""Runs that are killed or stopped and start again, on two ranks, end with the same bytes."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.support import launch
from training.checkpoint import folder, manifest

FLAGS = (
    "--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,1", "--lr=0.01", "--warmup_steps=5",
    "--decay_start_step=0", "--auc_threshold=1", "--global_batch_size=480", "--epochs=2",
    "--embedding_optimizer=adagrad", "--optimizer=adam", "--placement=row", "--eval_in_last",
    "--checkpoint_interval=5", "--shuffle_seed=3", "--stall_timeout=20",
)  # fmt: skip
STEPS = 82


def start(data, work, *, ranks=2, restarts=None):
    """Starts a run, under `training.restart` if `restarts` is given."""
    command = launch.command(
        ranks, "main.py", f"--data_dir={data}", f"--run_dir={work}/runs",
        f"--checkpoint_dir={work}/checkpoints", *FLAGS,
    )  # fmt: skip
    if restarts is not None:
        head = [sys.executable, "-m", "training.restart", "--max_restarts", str(restarts), "--"]
        command = head + command
    return subprocess.Popen(
        command, cwd=launch.ROOT, env=launch.environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def wait_for(condition, process):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return True
        time.sleep(0.02)
    return False


def finish(process, code=0):
    """Waits for the end of a run; returns its output."""
    try:
        out, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == code, out
    return out


def newest(work):
    """Returns (step, digest of all arrays) of the newest checkpoint, after verifying it."""
    step, path = folder.checkpoints(work / "checkpoints")[-1]
    found, digests = manifest.read(path)
    arrays = hashlib.sha256()
    for name in sorted(digests):
        content = (path / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digests[name]
        if name != manifest.NAME:
            arrays.update(name.encode() + content)
    assert found["step"] == step
    return step, arrays.hexdigest()


@pytest.fixture(scope="module")
def undisturbed(small_dataset, tmp_path_factory):
    """(digest, result) of a run without a stop."""
    work = tmp_path_factory.mktemp("undisturbed")
    finish(start(small_dataset, work))
    step, digest = newest(work)
    assert step == STEPS
    return digest, json.loads((work / "runs" / "latest" / "result.json").read_text())


def strike(process, work, rng, victims_of):
    """Kills ranks at a random time after some more checkpoints; returns them."""
    found = folder.checkpoints(work / "checkpoints")
    target = (found[-1][0] if found else 0) + 5 * int(rng.integers(1, 4))

    def far_enough():
        newest = folder.checkpoints(work / "checkpoints")
        return newest and newest[-1][0] >= target

    assert wait_for(far_enough, process)
    time.sleep(rng.random() * 0.1)  # Usually while the next checkpoint is being written.
    victims = victims_of(launch.ranks_of(process))
    for victim in victims.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    assert wait_for(lambda: not launch.ranks_of(process), process)
    return victims


@pytest.mark.parametrize(
    "attempt", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 20))]
)
def test_a_killed_run_restarts_and_ends_with_the_same_bytes(
    small_dataset, tmp_path, undisturbed, rng, attempt
):
    """One rank of the run is killed, and later all ranks of its restart."""
    rank = int(rng.integers(2))
    process = start(small_dataset, tmp_path, restarts=2)
    one = strike(process, tmp_path, rng, lambda ranks: {rank: ranks[rank]})
    strike(process, tmp_path, rng, dict)
    out = finish(process)
    assert newest(tmp_path) == (STEPS, undisturbed[0]), out
    assert "resuming after step" in out
    first, second = (line for line in out.splitlines() if line.startswith("restart: rank "))
    assert first.startswith(f"restart: rank {rank} ")
    assert "SIGKILL" in first
    assert re.search(rf"error: rank {rank} \(process {one[rank].pid} on .*\) died during", out)
    assert re.match("restart: rank [01] ", second)  # The order of their deaths is random.


def test_a_stopped_run_resumes_on_any_number_of_ranks(small_dataset, tmp_path, undisturbed):
    """A request to stop writes a checkpoint; from it, 2 ranks end with the same bytes, another
    number with nearly the same results (`test_world_sizes.py` restores the same bytes on any)."""
    work, other = tmp_path / "2", tmp_path / "1"
    process = start(small_dataset, work, restarts=3)
    assert wait_for(lambda: folder.checkpoints(work / "checkpoints"), process)
    process.send_signal(signal.SIGTERM)
    out = finish(process, 130)
    assert "restart 1" not in out
    step, _ = newest(work)
    assert 0 < step < STEPS
    shutil.copytree(work / "checkpoints", other / "checkpoints")
    processes = start(small_dataset, work), start(small_dataset, other, ranks=1)
    assert f"resuming after step {step}" in finish(processes[0])
    finish(processes[1])
    digest, expected = undisturbed
    assert newest(work) == (STEPS, digest)
    found = json.loads((other / "runs" / "latest" / "result.json").read_text())
    assert found["resumed_from_step"] == step
    # Rounding may switch a unit at its ReLU's kink, which changes the loss by some 1e-4.
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.01)
    assert found["auc"] == pytest.approx(expected["auc"], abs=0.01)
