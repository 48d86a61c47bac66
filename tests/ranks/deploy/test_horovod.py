"""The installed Horovod: collectives, and what happens when a rank dies."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.support import launch

WORKER = "tests/support/deploy/horovod_ranks.py"

pytestmark = pytest.mark.launches


@pytest.mark.parametrize(
    "ranks", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4))]
)
def test_collectives_agree_with_numpy(ranks, seed):
    done = launch.run(ranks, WORKER, "collectives", seed)
    assert done.returncode == 0, done.stderr
    for rank in range(ranks):
        assert f"rank {rank} of {ranks}: collectives agree with NumPy" in done.stdout


@pytest.mark.parametrize("mode", ["static", pytest.param("elastic", marks=pytest.mark.slow)])
def test_launcher_ends_ranks_when_one_dies(tmp_path, mode):
    options = []
    if mode == "elastic":
        hosts = tmp_path / "hosts.sh"
        hosts.write_text("#!/bin/sh\necho localhost:2\n")
        hosts.chmod(0o755)
        options = ["--min-np", "2", "--host-discovery-script", str(hosts),
                   "--network-interface", "lo", "--elastic-timeout", "60"]  # fmt: skip
    launcher = [sys.executable, str(launch.ROOT / "tests" / "support" / "quick_horovodrun.py")]
    process = subprocess.Popen(
        [*launcher, "--gloo", "-np", "2", *options, sys.executable, WORKER, mode, str(tmp_path)],
        cwd=launch.ROOT, env=launch.environment(), text=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        _, err = process.communicate(timeout=150)
        ended = time.time()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode != 0
    assert "exited with non-zero status" in err and "Exit code: 137" in err
    # The launcher may end survivors before their own step fails.
    errors = [path.read_text() for path in tmp_path.glob("error.*")]
    assert set(errors) <= {"UnknownError"}
    assert ended - float((tmp_path / "died").read_text()) < 60
    pids = [int(path.name.split(".")[2]) for path in tmp_path.glob("pid.*")]
    assert len(pids) == 2 and not any(psutil.pid_exists(pid) for pid in pids)
