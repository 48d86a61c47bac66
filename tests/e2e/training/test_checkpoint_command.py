"""`python3 -m training.checkpoint` as a process; `tests/unit/training/checkpoint/test_command.py`
tests its output."""

import os
import subprocess
import sys

from tests.support import launch
from tests.support.training import checkpoints

COMMAND = [sys.executable, "-m", "training.checkpoint"]


def run(command, stdout=subprocess.PIPE):
    return subprocess.run(
        [*map(str, command)], env=launch.environment(), text=True, check=False, cwd=launch.ROOT,
        stdout=stdout, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_closed_pipe_ends_the_command_quietly(tmp_path, rng):
    checkpoints.write(tmp_path, [5, 4, 1], rng, ranks=1)
    readable, writable = os.pipe()
    os.close(readable)
    done = run([*COMMAND, "inspect", tmp_path], stdout=writable)
    os.close(writable)
    assert done.returncode == 141
    assert done.stderr == ""


def test_export_needs_no_tensorflow_and_coreutils_verify_its_files(tmp_path, rng):
    checkpoints.write(tmp_path, [5, 4, 1], rng, ranks=2)
    code = (
        "import sys; from training.checkpoint.__main__ import main; "
        "sys.modules.update(tensorflow=None, horovod=None); "
        "sys.exit(main(sys.argv[1:]))"
    )
    done = run([sys.executable, "-c", code, "export", tmp_path, tmp_path / "out"])
    assert done.returncode == 0, done.stderr
    for folder in (tmp_path / "step-000000007", tmp_path / "out"):
        done = run(["env", "-C", folder, "sha256sum", "-c", "--strict", "SHA256SUMS"])
        assert done.returncode == 0, done.stdout + done.stderr
