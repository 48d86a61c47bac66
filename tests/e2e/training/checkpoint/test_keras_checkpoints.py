"""Training resumes from checkpoints of releases that trained the MLPs with Keras' optimizers."""

import shutil

import numpy as np
import pytest

from tests.support.training.checkpoint.keras_archives import FLAGS, unpack
from training.optimizers import OPTIMIZERS


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_continues_as_under_keras(server, tmp_path, optimizer):
    before, expected = unpack(optimizer, tmp_path / "written")
    shutil.copytree(before, tmp_path / "checkpoints" / before.name)
    done = server.run(
        "main.py", *FLAGS, f"--optimizer={optimizer}", "--early_stop=6",
        f"--checkpoint_dir={tmp_path / 'checkpoints'}", f"--run_dir={tmp_path / 'runs'}",
        cwd=tmp_path, timeout=200, HOROVOD_RANK="0", HOROVOD_SIZE="1",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert "resuming after step 3" in done.out
    found = tmp_path / "checkpoints" / expected.name
    files = sorted(path.name for path in found.glob("*.npy"))
    known = {path.name for path in expected.glob("*.npy")}
    assert known >= set(files)
    # SGD's unused momentum is not stored any more.
    assert len(known) - len(files) == (8 if optimizer == "sgd" else 0)
    moved = 0
    for name in files:
        ours, theirs, old = (np.load(folder / name) for folder in (found, expected, before))
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        change = np.linalg.norm(theirs - old)
        moved += change > 0
        # Adam's float32 hyperparameters differ by 7e-6; sums round differently on other processors.
        limit = 1e-4 * change + 1e-6 * np.linalg.norm(theirs)
        assert np.linalg.norm(ours - theirs) <= limit, name
    assert moved >= 10
