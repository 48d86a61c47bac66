"""Storage that fills up, is read-only or goes away, on real small file systems."""

import contextlib
import os
import shutil
import subprocess
import threading
import time

import pytest

from tests.support import launch
from training.checkpoint import files, folder, manifest

FLAGS = (
    "--use_synthetic_dataset", "--vocab_sizes=3000,2000", "--embedding_dim=16", "--bottom_mlp=16",
    "--top_mlp=8,1", "--global_batch_size=64", "--lr=0.1", "--early_stop=40",
    "--checkpoint_interval=10",
)  # fmt: skip
BYTES = 5000 * 16 * 4  # of one checkpoint's rows


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


def train(path, runs, *flags):
    return launch.run(1, "main.py", f"--checkpoint_dir={path}", f"--run_dir={runs}", *FLAGS, *flags)


def verified(path):
    """Returns the steps of the checkpoints in a folder, each read and found whole."""
    steps = []
    for step, checkpoint in folder.checkpoints(path):
        _, digests = manifest.read(checkpoint)
        for name, digest in digests.items():
            files.verify(checkpoint, name, digest)
        steps.append(step)
    return steps


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path):
    with small_file_system(tmp_path / "disk", int(2.6 * BYTES)) as disk:
        done = train(disk / "checkpoints", tmp_path / "runs", "--keep=5")
        assert done.returncode == 2, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        line = done.stderr.strip().splitlines()[-1]
        for words in ("No space left on device", "step-000000030", "are free", "step-000000020"):
            assert words in line, line
        assert verified(disk / "checkpoints") == [10, 20]
        assert len(list((disk / "checkpoints").iterdir())) == 2  # the half one is gone
        # With room again, the run goes on from there.
        shutil.rmtree(disk / "checkpoints" / "step-000000010")
        again = train(disk / "checkpoints", tmp_path / "runs", "--keep=1")
        assert again.returncode == 0, again.stderr
        assert "resuming after step 20" in again.stdout
        assert verified(disk / "checkpoints") == [40]


def test_a_read_only_folder_is_said_at_once(tmp_path):
    with small_file_system(tmp_path / "disk", 1 << 20) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = train(disk / "checkpoints", tmp_path / "runs")
    assert done.returncode == 2
    assert "Read-only file system" in done.stderr
    assert "--checkpoint_dir=" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    done = train(tmp_path / "file" / "checkpoints", tmp_path / "runs")
    assert done.returncode == 2
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_removed_underneath_is_said(tmp_path):
    path = tmp_path / "checkpoints"

    def remove():
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not folder.checkpoints(path):
            time.sleep(0.005)
        path.rename(tmp_path / "elsewhere")  # at once, whatever is being written

    remover = threading.Thread(target=remove)
    remover.start()
    done = train(path, tmp_path / "runs", "--early_stop=3000")
    remover.join()
    assert done.returncode == 2, done.stdout + done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert str(path) in line
    assert "No such file" in line or "its folder is gone" in line, line
    assert "Traceback" not in done.stderr
