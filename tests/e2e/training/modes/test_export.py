"""--mode=export: the SavedModel answers as the trainer does, wherever TensorFlow is."""

import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.interface import EmbeddingOptions
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from tests.support import launch
from tests.support.paths import ROOT
from tests.support.reference import REFERENCE_INTERACTIONS, ReferenceDLRM
from tests.support.training import checkpoints
from training.checkpoint import restore
from training.checkpoint.errors import DamagedError
from training.checkpoint.reader import Reader
from training.checkpoint.state import State
from training.modes import export
from training.runtime.errors import UserError
from training.runtime.process_group import SingleProcessGroup
from training.step import Forward

VOCAB = [300, 20, 7, 1000, 3, 150]
SMALL = ("--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,8,1")


# Of the checkpoints below; of the others it is dot.
INTERACTIONS = {"no_interaction": "none", "cat": "cat"}


def train(data, folder, *flags):
    done = launch.run(
        2, "main.py", f"--data_dir={data}", "--global_batch_size=240", "--early_stop=40",
        f"--run_dir={folder / 'runs'}", f"--checkpoint_dir={folder / 'checkpoints'}", *SMALL,
        "--lr=1", "--warmup_steps=5", "--decay_start_step=0", "--auc_threshold=1", "--eval_in_last",
        *flags,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "checkpoints"


@pytest.fixture(scope="module", params=["plain", "row", "no_interaction", "cat"])
def trained(request, small_dataset, tmp_path_factory):
    """Checkpoints of two ranks: (what is special, folder)."""
    flags = {
        "plain": (),
        "row": ("--placement=row", "--replicate_below_rows=10", "--amp", "--custom_interact"),
        "no_interaction": ("--ablation=no_interaction", "--embedding_optimizer=adagrad"),
        "cat": ("--interaction=cat", "--xla"),
    }[request.param]
    return request.param, train(small_dataset, tmp_path_factory.mktemp(request.param), *flags)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The folder that the command has made."""
    target = tmp_path_factory.mktemp("exports") / "model"
    done = launch.run(
        1, "main.py", "--mode=export", f"--checkpoint_dir={trained[1]}", f"--export_dir={target}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in target.parent.iterdir()] == ["model"]
    return target


def samples(count):
    random = np.random.default_rng()
    dense = np.log1p(random.integers(0, 2000, (count, 13))).astype(np.float32)
    ids = np.stack([random.integers(0, rows, count) for rows in VOCAB], axis=1)
    return dense, ids.astype(np.int64)


def trainers_logits(trained, dense, ids):
    """The trainer's own forward pass on one rank, restored by its own code."""
    kind, folder = trained
    cluster = SingleProcessGroup()
    reader = restore.latest_complete(folder, cluster, pytest.fail)
    interaction = INTERACTIONS.get(kind, "dot")
    model = DenseDLRM(
        DLRMConfig(13, len(VOCAB), (16, 8), (16, 8, 1), interaction=interaction, seed=99)
    )
    embedding = ShardedEmbedding(plan(VOCAB, 8, 1), cluster, len(dense), EmbeddingOptions(seed=99))
    no_optimizer = types.SimpleNamespace(variables=[])
    no_scale = types.SimpleNamespace(variables={}, dynamic=False)
    state = State(model, no_optimizer, no_scale, embedding, cluster)
    restore.load(reader, state, training=False)
    batch = {"dense": tf.constant(dense), "categorical": tf.constant(ids.astype(np.int32))}
    return Forward(model, embedding)(batch).numpy()


def reference_logits(trained, dense, ids):
    """The float64 reference, from the checkpoint's files as NumPy reads them."""
    kind, folder = trained
    (checkpoint,) = pathlib.Path(folder).glob("step-*")
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    arrays = [np.load(path) for path in sorted(checkpoint.glob("dense.*.npy"))]
    layers = list(zip(arrays[::2], arrays[1::2]))
    tables = [np.full((rows, 8), np.nan) for rows in VOCAB]
    for part in manifest["tables"]:
        if part["state"] == "table":
            rows = part["row_offset"] + part["row_stride"] * np.arange(part["rows"])
            columns = slice(part["column_start"], part["column_end"])
            tables[part["table"]][rows, columns] = np.load(checkpoint / part["file"])
    interaction = REFERENCE_INTERACTIONS[INTERACTIONS.get(kind, "dot")]()
    reference = ReferenceDLRM(layers[:2], layers[2:], tables, interaction=interaction)
    return reference.forward(dense, ids)[:, None]


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def test_answers_as_the_trainer_away_from_the_project(trained, exported, tmp_path):
    cases = {f"n{count}": samples(count) for count in (0, 1, 2, 777)}
    dense, ids = samples(50)
    low, high = ids.copy(), ids.copy()
    low[11, 4], high[49, 2] = -1, VOCAB[2]
    nan, infinite = dense.copy(), dense.copy()
    nan[21, 12], infinite[0, 5] = np.nan, -np.inf
    cases.update(low=(dense, low), high=(dense, high), short=(dense[:3], ids[:4]))
    cases.update(nan=(nan, ids), infinite=(infinite, ids))
    arrays = {f"{name}.{key}": value for name, pair in cases.items()
              for key, value in zip(("dense", "ids"), pair)}  # fmt: skip
    np.savez(tmp_path / "cases.npz", **arrays)
    script = ROOT / "tests/support/training/modes/serve_alone.py"
    answers = tmp_path / "answers.npz"
    environment = {"PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-I", script, exported, tmp_path / "cases.npz", answers]
    done = subprocess.run(
        [str(word) for word in command], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(np.load(answers))
    assert found["imported"].size == 0, found["imported"]
    for name in ("n0", "n1", "n2", "n777"):
        dense, ids = cases[name]
        assert found[name].shape == (len(dense), 1)
        assert found[name].dtype == np.float32
        if not len(dense):
            continue
        logits = trainers_logits(trained, dense, ids)
        np.testing.assert_allclose(found[name], sigmoid(logits), rtol=0, atol=1e-6)
        expected = reference_logits(trained, dense, ids)
        np.testing.assert_allclose(found[name], sigmoid(expected), rtol=0, atol=1e-6)
    # Predictions that were all alike would agree with anything that is wrong in the same way.
    assert np.ptp(found["n777"]) > 0.02
    assert "table 4, sample 11: id -1 is outside [0, 3)" in str(found["low"])
    assert "table 2, sample 49: id 7 is outside [0, 7)" in str(found["high"])
    assert "dense has 3 samples, categorical 4" in str(found["short"])
    assert "dense feature 12, sample 21: nan is not finite" in str(found["nan"])
    assert "dense feature 5, sample 0: -inf is not finite" in str(found["infinite"])


def test_the_description(trained, exported):
    described = json.loads((exported / "model.json").read_text())
    assert described["vocab_sizes"] == VOCAB
    assert described["step"] == 40
    assert described["dense_transform"] == "log(x+1)"
    assert described["checkpoint"] == str(trained[1] / "step-000000040")
    loaded = tf.saved_model.load(str(exported)).signatures["serving_default"]
    inputs = loaded.structured_input_signature[1]
    for name, spec in described["signature"]["inputs"].items():
        assert inputs[name] == tf.TensorSpec(spec["shape"], spec["dtype"], name)
    (spec,) = described["signature"]["outputs"].values()
    assert loaded.structured_outputs["probability"].shape.as_list() == spec["shape"]


def reader_of(folder):
    (checkpoint,) = pathlib.Path(folder).glob("step-*")
    return Reader(checkpoint, json.loads((checkpoint / "manifest.json").read_text()))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"interaction": "fm"}, "its flags are damaged: unknown interaction 'fm', expected one of"),
        (
            {"interaction": "cat"},
            r"variable 02\.\S+: expected float32 \[12, 3\] by its flags, found float32 \[8, 3\]",
        ),
        ({"bottom_mlp": "5"}, r"expected --bottom_mlp to end in the tables' width, 4, found 5"),
        ({"bottom_mlp": "1048576,4"}, "expected 8 dense variables by its flags, found 6"),
        (
            {"top_mlp": "1048576,1"},
            r"expected float32 \[\d+, 1048576\] by its flags, found float32",
        ),
        ({"top_mlp": "3,2"}, r"must end in one logit, got widths \[3, 2\]"),
        ({"top_mlp": "three"}, "its flags are damaged: --top_mlp=three"),
    ],
)
def test_flags_that_are_not_the_checkpoints_are_refused(tmp_path, rng, flags, message):
    checkpoints.write(tmp_path, (9, 5), rng, ranks=1)
    reader = reader_of(tmp_path)
    reader.manifest["flags"].update(flags)
    with pytest.raises(DamagedError, match=message):
        export.export(reader, tmp_path / "exported", "log(x+1)")
    assert not (tmp_path / "exported").exists()


def test_nothing_is_overwritten_and_nothing_half_written(trained, tmp_path, monkeypatch):
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(UserError, match="exists already"):
        export.export(reader_of(trained[1]), taken, "log(x+1)")

    def fails(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fails)
    with pytest.raises(UserError, match=r"model: cannot be written: No space left on device"):
        export.export(reader_of(trained[1]), tmp_path / "model", "log(x+1)")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--mode=export", "--restore=x"), ["--export_dir is required"]),
        (("--mode=export", "--export_dir=x"), ["--restore", "--checkpoint_dir"]),
        (
            ("--mode=export", "--export_dir=x", "--restore=nowhere"),
            ["nowhere", "no such folder", "expected a checkpoint or a folder of them"],
        ),
        (("--mode=evaluate", "--data_dir=x"), ["--mode=evaluate needs a checkpoint", "--restore"]),
        (("--mode=evaluate", "--use_synthetic_dataset", "--restore=x"), ["random batches"]),
        (
            ("--mode=evaluate", "--data_dir=x", "--restore=x", "--checkpoint_dir=y"),
            ["reads one checkpoint"],
        ),
        (("--mode=inference_benchmark", "--batch_sizes=4,x"), ["--batch_sizes=4,x"]),
        (("--mode=inference_benchmark", "--global_batch_size=4"), ["give --batch_sizes"]),
        (("--export_dir=x", "--global_batch_size=8"), ["--mode=export"]),
        (("--batch_sizes=8", "--global_batch_size=8"), ["--mode=inference_benchmark"]),
    ],
)
def test_wrong_flags_of_the_modes_are_one_line(flags, words):
    done = launch.run(1, "main.py", *flags)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("[hvd_wrapper]")]
    for word in ("error: ", *words):
        assert word in line
