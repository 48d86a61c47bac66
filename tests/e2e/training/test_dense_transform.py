"""The dense transform of data, checkpoint, evaluation and export is the same."""

import json

import numpy as np
import pytest
import tensorflow as tf

from dataset import convert
from dataset.columns import TRANSFORMS
from tests.support import launch
from training.checkpoint.reader import Reader
from training.modes import export

# {layout of the training data: its transform}
CASES = {"three_file": "log(x+1)", "per_table": "log(x+3)"}


def make(source, target, layout, transform):
    words = (source, target, "--layout", layout, "--dense_transform", transform)
    assert convert.main([str(word) for word in words]) == 0
    return target


@pytest.fixture(scope="module", params=CASES)
def trained(request, small_dataset, tmp_path_factory):
    """A checkpoint with an evaluation of the test data: (folder, transform)."""
    layout, transform = request.param, CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    data = make(small_dataset / "raw", folder / "data", layout, transform)
    done = launch.run(
        1, "main.py", f"--data_dir={data}", "--global_batch_size=500", "--embedding_dim=8",
        "--bottom_mlp=16,8", "--top_mlp=16,8,1", "--lr=1", "--warmup_steps=5",
        "--decay_start_step=0", "--auc_threshold=1", "--eval_in_last", "--embedding_lr=5",
        f"--run_dir={folder / 'runs'}", f"--checkpoint_dir={folder / 'checkpoints'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--applied_transform" not in done.stdout + done.stderr
    (checkpoint,) = (folder / "checkpoints").glob("step-*")
    return checkpoint, transform


def reader_of(checkpoint):
    return Reader(checkpoint, json.loads((checkpoint / "manifest.json").read_text()))


def log_loss(labels, chances):
    chances = np.clip(chances.astype(np.float64), 1e-12, 1 - 1e-12)
    return -np.mean(labels * np.log(chances) + (1 - labels) * np.log(1 - chances))


def test_exported_model_scores_like_the_evaluation(trained, small_dataset, tmp_path):
    checkpoint, transform = trained
    reader = reader_of(checkpoint)
    expected = export.counts_transform(reader)
    assert expected == transform
    export.export(reader, tmp_path / "model", expected)
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["dense_transform"] == transform
    records = np.fromfile(small_dataset / "raw" / "test_data.bin", "<i4").reshape(-1, 20)
    labels, counts, ids = records[:, 0], records[:, 1:14], records[:, 14:].astype(np.int64)
    loaded = tf.saved_model.load(str(tmp_path / "model"))

    def serve(signature, name, values):
        assert list(signature["inputs"]) == [name, "categorical"]
        function = loaded.signatures[signature["name"]]
        values = tf.constant(values, signature["inputs"][name]["dtype"])
        answer = function(**{name: values, "categorical": tf.constant(ids)})
        return answer["probability"].numpy()[:, 0]

    # The transform by NumPy and by the model.
    dense = np.log(counts + np.float64(TRANSFORMS[transform])).astype(np.float32)
    assert described["signature"]["inputs"]["dense"]["values"] == f"{transform} of counts"
    by_hand = serve(described["signature"], "dense", dense)
    assert described["counts_signature"]["inputs"]["counts"]["values"] == "counts"
    from_counts = serve(described["counts_signature"], "counts", counts)
    np.testing.assert_allclose(from_counts, by_hand, rtol=0, atol=2e-6)
    (scored,) = reader.manifest["evaluations"]
    # The per-table layout stores the logarithms as float16.
    tolerance = 1e-5 if reader.manifest["data"]["layout"] == "three_file" else 5e-4
    for chances in (by_hand, from_counts):
        assert log_loss(labels, chances) == pytest.approx(scored["log_loss"], abs=tolerance)
    # Counts without the transform give other chances.
    raw = serve(described["signature"], "dense", counts)
    assert np.abs(raw - by_hand).mean() > 0.01


@pytest.mark.parametrize("trained", ["three_file"], indirect=True)
def test_evaluation_refuses_data_of_another_transform(trained, small_dataset, tmp_path):
    checkpoint, transform = trained
    other = "log(x+3)"
    data = make(small_dataset / "raw", tmp_path / "data", "per_table", other)
    done = launch.run(
        1, "main.py", "--mode=evaluate", f"--restore={checkpoint}", f"--data_dir={data}",
        f"--run_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert str(checkpoint) in line
    assert transform in line
    assert other in line
    assert not (tmp_path / "runs").exists()
