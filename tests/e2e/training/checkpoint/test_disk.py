"""A disk that fills up, on a real small file system."""

import contextlib
import os
import shutil
import subprocess

import pytest

from training.checkpoint import folder, verify

FLAGS = (
    "--use_synthetic_dataset", "--vocab_sizes=3000,2000", "--embedding_dim=16", "--bottom_mlp=16",
    "--top_mlp=8,1", "--global_batch_size=64", "--lr=0.1", "--early_stop=40",
    "--checkpoint_interval=10",
)  # fmt: skip
BYTES = 5000 * 16 * 4  # Of the rows of one checkpoint.


@contextlib.contextmanager
def small_file_system(path, size):
    """Mounts `size` bytes of memory at a path."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def complete_steps(path):
    return [step for step, one in folder.checkpoints(path) if not verify.find_problems(one)]


def test_a_full_disk_keeps_the_last_complete_checkpoint(server, tmp_path):
    def train(path, *flags):
        return server.run(
            "main.py", f"--checkpoint_dir={path}", f"--run_dir={tmp_path / 'runs'}", *FLAGS, *flags,
            cwd=tmp_path, timeout=200,
        )  # fmt: skip

    with small_file_system(tmp_path / "disk", int(2.6 * BYTES)) as disk:
        done = train(disk / "checkpoints", "--keep=5")
        assert done.code == 2, done.out + done.err
        assert "Traceback" not in done.err
        line = done.err.strip().splitlines()[-1]
        for words in ("No space left on device", "step-000000030", "are free", "step-000000020"):
            assert words in line, line
        assert complete_steps(disk / "checkpoints") == [10, 20]
        assert len(os.listdir(disk / "checkpoints")) == 2  # No unfinished or damaged one.
        # With enough space the run resumes from there.
        shutil.rmtree(disk / "checkpoints" / "step-000000010")
        again = train(disk / "checkpoints", "--keep=1")
        assert again.code == 0, again.err
        assert "resuming after step 20" in again.out
        assert complete_steps(disk / "checkpoints") == [40]
        assert len(os.listdir(disk / "checkpoints")) == 1
