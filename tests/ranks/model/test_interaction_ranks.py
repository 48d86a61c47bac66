"""An interaction without a native op on one rank and on two."""

import json

import numpy as np
import pytest

from tests.support import launch


def test_cat_trains_alike_on_two_ranks_and_evaluates_from_its_checkpoint(small_dataset, tmp_path):
    arrays, scores = [], []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        common = (f"--data_dir={small_dataset}", f"--run_dir={folder / 'runs'}")
        done = launch.run(
            ranks, "main.py", *common, "--global_batch_size=240", "--early_stop=20",
            "--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,1", "--lr=0.5",
            "--warmup_steps=5", "--decay_start_step=0", "--auc_threshold=1", "--eval_in_last",
            "--interaction=cat", f"--checkpoint_dir={folder / 'checkpoints'}",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        trained = json.loads((folder / "runs" / "latest" / "result.json").read_text())
        checkpoint = folder / "checkpoints" / "step-000000020"
        arrays.append([np.load(path) for path in sorted(checkpoint.glob("dense.*.npy"))])
        scores.append(trained["auc"])
    assert [a.shape for a in arrays[0][4:]] == [(7 * 8, 16), (16,), (16, 1), (1,)]
    for one, two in zip(*arrays):
        np.testing.assert_allclose(two, one, rtol=0, atol=2e-5)
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
    done = launch.run(2, "main.py", "--mode=evaluate", f"--restore={checkpoint}", *common)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "runs" / "latest" / "result.json").read_text())
    assert result["auc"] == pytest.approx(scores[1], abs=1e-6)
