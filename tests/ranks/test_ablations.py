"""The demo data needs all of DLRM: learned tables and the interaction of their vectors."""

import json

import pytest

from tests.support import launch

FLAGS = (
    "--global_batch_size=1024", "--embedding_dim=32", "--bottom_mlp=64,32", "--top_mlp=128,64,1",
    "--lr=0.7", "--embedding_lr=10", "--warmup_steps=30", "--decay_start_step=300",
    "--decay_steps=300", "--auc_threshold=1", "--eval_in_last", "--custom_interact",
)  # fmt: skip
# What each part must be worth, in AUC, after half a million samples.
MARGIN = 0.02


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns {ablation: result.json} of the same job on demo data with the default vocabulary."""
    folder = tmp_path_factory.mktemp("demo")
    made = launch.run(
        1, "-m", "dataset.synthetic", "--output", folder / "raw", "--train_samples", 500000,
        "--test_samples", 60000,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    for part in ("train", "test"):
        source = folder / "raw" / f"{part}_data.bin"
        split = launch.run(1, "split_bin.py", source, folder / part)
        assert split.returncode == 0, split.stderr
    results = {}
    for ablation in ("none", "frozen_embeddings", "no_interaction"):
        runs = folder / ablation
        done = launch.run(
            1, "main.py", f"--data_dir={folder}", f"--run_dir={runs}", f"--ablation={ablation}",
            *FLAGS,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        results[ablation] = json.loads((runs / "latest" / "result.json").read_text())
    return results


def test_the_full_model_comes_near_what_is_attainable(trained):
    full = trained["none"]
    assert full["attainable_auc"] - 0.03 < full["auc"] < full["attainable_auc"] + 0.003


@pytest.mark.parametrize("ablation", ["frozen_embeddings", "no_interaction"])
def test_an_ablated_model_falls_short(trained, ablation):
    assert trained[ablation]["auc"] < trained["none"]["auc"] - MARGIN
    # It did learn: it falls short because of what it lacks.
    assert trained[ablation]["auc"] > 0.55
