"""`python3 -m training.checkpoint` as a process; `tests/unit/training/checkpoint/test_command.py`
tests its output."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.support import launch
from tests.support.training import checkpoints

COMMAND = [sys.executable, "-m", "training.checkpoint"]


@pytest.fixture(scope="module")
def written(tmp_path_factory, seed_of):
    """A folder with the checkpoints of steps 3 and 7 of two ranks."""
    path = tmp_path_factory.mktemp("checkpoints")
    rng = np.random.default_rng(seed_of("command"))
    checkpoints.write(path, [5, 4, 1], rng, ranks=2, steps=(3, 7))
    return path


def run(command, **options):
    return subprocess.run(
        list(map(str, command)), env=launch.environment(), text=True, check=False,
        stderr=subprocess.PIPE, **{"cwd": launch.ROOT, "stdout": subprocess.PIPE, **options},
    )  # fmt: skip


def test_coreutils_verify_a_checkpoint_and_an_export(written, tmp_path):
    done = run([*COMMAND, "export", written, tmp_path / "out"])
    assert done.returncode == 0, done.stderr
    for folder in (written / "step-000000007", tmp_path / "out"):
        done = run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_closed_pipe_ends_the_command_quietly(written):
    readable, writable = os.pipe()
    os.close(readable)
    done = run([*COMMAND, "inspect", written], stdout=writable)
    os.close(writable)
    assert done.returncode == 141
    assert done.stderr == ""


def test_the_command_does_not_import_tensorflow(written):
    code = (
        "import sys; from training.checkpoint.__main__ import main; "
        "code = main(sys.argv[1:]); "
        "assert not any(n.split('.')[0] in ('tensorflow', 'horovod') for n in sys.modules); "
        "sys.exit(code)"
    )
    done = run([sys.executable, "-c", code, "verify", written])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": complete") == 2
