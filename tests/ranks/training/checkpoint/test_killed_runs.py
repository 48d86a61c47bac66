"""Runs that are killed at random moments and start again end in the same bytes."""

import contextlib
import hashlib
import os
import pathlib
import random
import re
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
    "--decay_start_step=0", "--auc_threshold=1", "--global_batch_size=400", "--epochs=2",
    "--embedding_optimizer=adagrad", "--optimizer=adam", "--placement=row", "--eval_in_last",
    "--checkpoint_interval=5", "--shuffle_seed=3", "--stall_timeout=20",
)  # fmt: skip
STEPS = 100


def start(data, work, *, restarts=None, flags=FLAGS):
    """Starts two ranks, under `training.runtime.restart` where restarts are given."""
    command = launch.command(
        2, "main.py", f"--data_dir={data}", f"--run_dir={work}/runs",
        f"--checkpoint_dir={work}/checkpoints", *flags,
    )  # fmt: skip
    if restarts is not None:
        head = [sys.executable, "-m", "training.restart", "--max_restarts", str(restarts), "--"]
        command = head + command
    return subprocess.Popen(
        command, cwd=launch.ROOT, env=launch.environment(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return True
        time.sleep(0.02)
    return False


def finish(process, seconds=240):
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return out


def weights(work):
    """Returns (step, digest of all arrays) of the newest checkpoint, verified."""
    step, path = folder.checkpoints(work / "checkpoints")[-1]
    found, digests = manifest.read(path)
    whole = hashlib.sha256()
    for name in sorted(digests):
        content = (path / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digests[name]
        if name != manifest.NAME:
            whole.update(name.encode() + content)
    assert found["step"] == step
    return step, whole.hexdigest()


@pytest.fixture(scope="module")
def undisturbed(small_dataset, tmp_path_factory):
    work = tmp_path_factory.mktemp("undisturbed")
    process = start(small_dataset, work)
    out = finish(process)
    assert process.returncode == 0, out
    step, digest = weights(work)
    assert step == STEPS
    return digest


def strike(process, work, generator):
    """Kills one rank or all, some checkpoints on, most of the time while the next is written."""
    found = folder.checkpoints(work / "checkpoints")
    target = (found[-1][0] if found else 0) + 5 * generator.randrange(1, 9)

    def far_enough():
        newest = folder.checkpoints(work / "checkpoints")
        return newest and newest[-1][0] >= target

    assert wait_for(far_enough, process)
    time.sleep(generator.random() * 0.1)
    victims = launch.ranks_of(process)
    if generator.random() < 0.6:
        victims = dict([generator.choice(sorted(victims.items()))])
    for victim in victims.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    assert wait_for(lambda: not launch.ranks_of(process), process, 60)
    return victims


def kill_at_random(small_dataset, work, undisturbed, seed, kills):
    """Strikes a run, and the runs that go on from it, so many times in all."""
    generator = random.Random(seed)
    process = start(small_dataset, work, restarts=kills)
    struck = [strike(process, work, generator) for _ in range(kills)]
    out = finish(process)
    assert process.returncode == 0, out
    assert weights(work) == (STEPS, undisturbed), out
    said = [line for line in out.splitlines() if line.startswith("restart: rank ")]
    assert len(said) == kills, out
    for victims, line in zip(struck, said):
        # Which of several was first is chance.
        assert any(line.startswith(f"restart: rank {rank} ") for rank in victims), out
        if len(victims) == 1:
            assert "killed by SIGKILL" in line, out
            (rank, victim) = next(iter(victims.items()))
            assert re.search(rf"error: rank {rank} \(process {victim.pid} on .*\) died during", out)
    assert "resuming after step" in out


@pytest.mark.parametrize(("seed", "kills"), [(0, 1), (4, 2)])
def test_killed_and_started_again(small_dataset, tmp_path, undisturbed, seed, kills):
    kill_at_random(small_dataset, tmp_path, undisturbed, seed, kills)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_killed_thirty_times(small_dataset, tmp_path, undisturbed, seed):
    kill_at_random(small_dataset, tmp_path, undisturbed, seed, 1 + seed % 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_writes_a_checkpoint_first(small_dataset, tmp_path, undisturbed, number):
    process = start(small_dataset, tmp_path, restarts=3)
    assert wait_for(lambda: folder.checkpoints(tmp_path / "checkpoints"), process)
    process.send_signal(number)
    out = finish(process)
    assert process.returncode == 130, out
    assert "restart 1" not in out
    step, _ = weights(tmp_path)
    assert 0 < step < STEPS
    # That step was not one of those at which a checkpoint is due, or by chance.
    again = start(small_dataset, tmp_path)
    out = finish(again)
    assert again.returncode == 0, out
    assert f"resuming after step {step}" in out
    assert weights(tmp_path) == (STEPS, undisturbed)


def test_what_would_fail_again_is_not_started_again(small_dataset, tmp_path):
    process = start(small_dataset, tmp_path, restarts=3, flags=(*FLAGS, "--placement=elsewhere"))
    out = finish(process)
    assert process.returncode == 2, out
    assert "restart 1" not in out
    assert "not started again" in out


def test_gives_up_after_the_last_restart(tmp_path):
    script = pathlib.Path(tmp_path / "dies.py")
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n")
    done = subprocess.run(
        [sys.executable, "-m", "training.restart", "--max_restarts=2", "--", sys.executable,
         str(script), "--checkpoint_dir=x"],
        cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 4
    assert "restart 2 of 2" in done.stderr
    assert "given up after 2 restarts" in done.stderr


def test_restart_without_checkpoints_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "training.restart", "--", "horovodrun", "-np", "2", "main.py"],
        cwd=launch.ROOT, env=launch.environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--checkpoint_dir" in done.stderr
