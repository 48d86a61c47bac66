"""The demo data needs both learned tables and their interaction."""

import json

import pytest

import split_bin
from dataset import synthetic
from tests.support import launch

FLAGS = (
    "--global_batch_size=1024", "--embedding_dim=32", "--bottom_mlp=64,32", "--top_mlp=128,64,1",
    "--lr=0.7", "--embedding_lr=10", "--warmup_steps=30", "--decay_start_step=300",
    "--decay_steps=300", "--auc_threshold=1", "--eval_in_last", "--custom_interact",
)  # fmt: skip
# The AUC that each part must gain after half a million samples.
MARGIN = 0.02


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns {ablation: result.json} of the same job on demo data with the default vocabulary."""
    folder = tmp_path_factory.mktemp("demo")
    raw = folder / "raw"
    assert not synthetic.main(
        ["--output", str(raw), "--train_samples=500000", "--test_samples=60000"]
    )
    for part in ("train", "test"):
        assert not split_bin.main([str(raw / f"{part}_data.bin"), str(folder / part)])
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


def test_full_model_is_close_to_the_attainable_auc(trained):
    full = trained["none"]
    assert full["attainable_auc"] - 0.03 < full["auc"] < full["attainable_auc"] + 0.003


@pytest.mark.parametrize("ablation", ["frozen_embeddings", "no_interaction"])
def test_ablated_model_has_a_lower_auc(trained, ablation):
    assert trained[ablation]["auc"] < trained["none"]["auc"] - MARGIN
    # It has learned something.
    assert trained[ablation]["auc"] > 0.55
