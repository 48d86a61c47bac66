"""What a model expects of counts is the same in data, checkpoint, evaluation and export."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf

from dataset import convert
from dataset.columns import TRANSFORMS
from tests.support import launch
from training.checkpoint.errors import DamagedError
from training.checkpoint.reader import Reader
from training.config import Config
from training.modes import export
from training.runtime.errors import UserError

# layout of the training data, its transform.
CASES = {
    "three_file": ("three_file", "log(x+1)"),
    "per_table": ("per_table", "log(x+1)"),
    "shift_3": ("per_table", "log(x+3)"),
}


def make(source, target, layout, transform):
    words = (source, target, "--layout", layout, "--dense_transform", transform)
    assert convert.main([str(word) for word in words]) == 0
    return target


@pytest.fixture(scope="module", params=CASES)
def trained(request, small_dataset, tmp_path_factory):
    """A checkpoint whose test data the trainer has scored: (folder, transform, data)."""
    layout, transform = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    data = make(small_dataset / "raw", folder / "data", layout, transform)
    done = launch.run(
        1, "main.py", f"--data_dir={data}", "--global_batch_size=500", "--embedding_dim=8",
        "--bottom_mlp=16,8", "--top_mlp=16,8,1", "--lr=1", "--warmup_steps=5",
        "--decay_start_step=0", "--auc_threshold=1", "--eval_in_last", "--embedding_lr=5",
        f"--run_dir={folder / 'runs'}", f"--checkpoint_dir={folder / 'checkpoints'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not recorded" not in done.stdout + done.stderr
    (checkpoint,) = (folder / "checkpoints").glob("step-*")
    return checkpoint, transform, data


def reader_of(checkpoint, **changes):
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["data"] = {**manifest["data"], **changes}
    return Reader(checkpoint, manifest)


def log_loss(labels, chances):
    chances = np.clip(chances.astype(np.float64), 1e-12, 1 - 1e-12)
    return -np.mean(labels * np.log(chances) + (1 - labels) * np.log(1 - chances))


def test_counts_as_model_json_says_score_as_the_evaluation(trained, small_dataset, tmp_path):
    checkpoint, transform, _ = trained
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

    # By hand, and by the model itself.
    dense = np.log(counts + np.float64(TRANSFORMS[transform])).astype(np.float32)
    assert described["signature"]["inputs"]["dense"]["values"] == f"{transform} of counts"
    by_hand = serve(described["signature"], "dense", dense)
    assert described["counts_signature"]["inputs"]["counts"]["values"] == "counts"
    from_counts = serve(described["counts_signature"], "counts", counts)
    np.testing.assert_allclose(from_counts, by_hand, rtol=0, atol=2e-6)
    (scored,) = reader.manifest["evaluations"]
    # The per-table layout has rounded the logarithms to float16.
    tolerance = 1e-5 if reader.manifest["data"]["layout"] == "three_file" else 5e-4
    for chances in (by_hand, from_counts):
        assert log_loss(labels, chances) == pytest.approx(scored["log_loss"], abs=tolerance)
    # Counts taken for transformed values, as before: nothing like it.
    raw = serve(described["signature"], "dense", counts)
    assert abs(log_loss(labels, raw) - scored["log_loss"]) > 0.05


def test_a_count_without_a_logarithm_is_refused(trained, tmp_path):
    checkpoint, transform, _ = trained
    export.export(reader_of(checkpoint), tmp_path / "model", transform)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    counts = np.ones((4, 13), np.float32)
    ids = tf.zeros([4, 6], tf.int64)
    for value in (-TRANSFORMS[transform], -7.0, np.nan, np.inf):
        counts[2, 5] = value
        with pytest.raises(tf.errors.InvalidArgumentError, match="dense feature 5, sample 2"):
            loaded.signatures["from_counts"](counts=tf.constant(counts), categorical=ids)


def test_export_of_a_checkpoint_that_does_not_say_takes_a_statement(trained, tmp_path):
    checkpoint, transform, _ = trained
    unknown = reader_of(checkpoint, effective_transform=None)
    assert export.counts_transform(unknown) is None
    assert export.counts_transform(unknown, "log(x+3)") == "log(x+3)"
    with pytest.raises(UserError, match=r"--applied_transform=none: checkpoint .* says log"):
        export.counts_transform(reader_of(checkpoint), "none")
    assert export.counts_transform(reader_of(checkpoint), transform) == transform
    with pytest.raises(DamagedError, match="dense transform is 'log2', expected one of none, log"):
        export.counts_transform(reader_of(checkpoint, effective_transform="log2"))
    export.export(unknown, tmp_path / "model", None)
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["dense_transform"] is None
    assert "counts_signature" not in described
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert list(loaded.signatures) == ["serving_default"]
    assert not hasattr(loaded, "serve_counts")


def test_export_says_that_a_checkpoint_does_not_say(trained, tmp_path, monkeypatch, capsys):
    checkpoint, _, _ = trained
    unknown = reader_of(checkpoint, effective_transform=None)
    monkeypatch.setattr(export, "find_checkpoint", lambda checkpoint, cluster: unknown)
    config = Config().with_values(export_dir=str(tmp_path / "model"))
    assert export.run(config, types.SimpleNamespace(size=1)) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not say which transform" in line
    assert "--applied_transform" in line


def test_evaluation_refuses_data_of_another_transform(trained, small_dataset, tmp_path):
    checkpoint, transform, _ = trained
    other = "log(x+3)" if transform == "log(x+1)" else "log(x+1)"
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
