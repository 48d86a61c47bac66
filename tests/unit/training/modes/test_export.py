"""--mode=export: model.json, the signatures, the dense transform, and damaged checkpoints."""

import json
import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf

from dataset.columns import TRANSFORMS
from tests.support.training import checkpoints
from training.checkpoint.errors import DamagedError
from training.checkpoint.reader import Reader
from training.config import Config
from training.modes import export
from training.runtime.errors import UserError

VOCAB = [9, 5]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, seed_of):
    """The folder of a checkpoint of step 7."""
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints.write(folder, VOCAB, np.random.default_rng(seed_of("export")), ranks=1)
    return pathlib.Path(folder) / "step-000000007"


def reader_of(checkpoint, *, flags=(), **data):
    """Returns a `Reader` with changed flags and data in its manifest."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["flags"].update(flags)
    manifest["data"].update(data)
    return Reader(checkpoint, manifest)


def test_model_json_describes_the_signatures(checkpoint, tmp_path, rng):
    target = tmp_path / "model"
    size = export.export(reader_of(checkpoint), target, "log(x+3)")
    assert size == sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    described = json.loads((target / "model.json").read_text())
    assert described["vocab_sizes"] == VOCAB
    assert described["step"] == 7
    assert described["dense_transform"] == "log(x+3)"
    assert described["checkpoint"] == str(checkpoint)
    loaded = tf.saved_model.load(str(target))
    for key in ("signature", "counts_signature"):
        signature = described[key]
        function = loaded.signatures[signature["name"]]
        inputs = function.structured_input_signature[1]
        for name, spec in signature["inputs"].items():
            assert inputs[name] == tf.TensorSpec(spec["shape"], spec["dtype"], name)
        (spec,) = signature["outputs"].values()
        assert function.structured_outputs["probability"].shape.as_list() == spec["shape"]
    # Both signatures give the same results, from counts and from transformed values.
    counts = rng.integers(0, 2000, (40, checkpoints.DENSE)).astype(np.float32)
    ids = tf.constant(np.stack([rng.integers(0, rows, 40) for rows in VOCAB], axis=1))
    dense = np.log(counts.astype(np.float64) + 3).astype(np.float32)
    expected = loaded.signatures["serving_default"](dense=tf.constant(dense), categorical=ids)
    found = loaded.signatures["from_counts"](counts=tf.constant(counts), categorical=ids)
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=0, atol=2e-6)


BAGS = {"hotness": [3, 2], "pooling": ["mean", "sum"], "variable": [True, False]}


def test_served_model_pools_the_ids_of_each_table(checkpoint, rng):
    one_hot = export.serving_model(reader_of(checkpoint), None)
    pooled = export.serving_model(reader_of(checkpoint, bags=BAGS), None)
    ids = np.stack([rng.integers(0, rows, 40) for rows in (9, 9, 9, 5, 5)], axis=1)
    ids[:10, 1:3], ids[10:20, 2], ids[20:25, :3] = -1, -1, -1
    dense = rng.standard_normal((40, checkpoints.DENSE)).astype(np.float32)
    first, second = (table.numpy().astype(np.float64) for table in pooled.tables)
    filled = (ids[:, :3] >= 0)[..., None]
    counts = np.maximum(filled.sum(axis=1), 1)
    vectors = [(first[ids[:, :3]] * filled).sum(axis=1) / counts, second[ids[:, 3:]].sum(axis=1)]
    # Some of the vectors as the first rows of a model with one id per table.
    chosen = np.r_[0, 10, 20, 21, 30]
    for table, values in zip(one_hot.tables, vectors):
        table[: len(chosen)].assign(values[chosen].astype(np.float32))
    rows = tf.constant(np.repeat(np.arange(len(chosen))[:, None], 2, axis=1))
    expected = one_hot.serve(tf.constant(dense[chosen]), rows)["probability"]
    found = pooled.serve(tf.constant(dense), tf.constant(ids))["probability"].numpy()[chosen]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("slot", "table"), [(3, 1), (4, 1)])
def test_served_model_refuses_an_empty_slot_of_a_fixed_feature(checkpoint, slot, table):
    module = export.serving_model(reader_of(checkpoint, bags=BAGS), None)
    ids = np.zeros((4, 5), np.int64)
    ids[2, slot] = -1
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"table {table}, sample 2: id -1"):
        module.serve(tf.zeros([4, checkpoints.DENSE]), tf.constant(ids))
    ids[2, slot], ids[1, 0] = 0, 9
    with pytest.raises(tf.errors.InvalidArgumentError, match="table 0, sample 1: id 9"):
        module.serve(tf.zeros([4, checkpoints.DENSE]), tf.constant(ids))


def test_model_json_describes_the_slots(checkpoint, tmp_path):
    export.export(reader_of(checkpoint, bags=BAGS), tmp_path / "model", None)
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["bags"] == BAGS
    assert described["signature"]["inputs"]["categorical"]["shape"] == [None, 5]
    module = tf.saved_model.load(str(tmp_path / "model"))
    spec = module.signatures["serving_default"].structured_input_signature[1]["categorical"]
    assert spec.shape == [None, 5]


@pytest.mark.parametrize("slots", [1, 4, 6, 10])
def test_exported_model_refuses_another_number_of_slots(checkpoint, tmp_path, slots):
    export.export(reader_of(checkpoint, bags=BAGS), tmp_path / "model", None)
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    dense, categorical = tf.zeros([4, checkpoints.DENSE]), tf.zeros([4, slots], tf.int64)
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(dense=dense, categorical=categorical)
    assert serve(dense=dense, categorical=tf.zeros([4, 5], tf.int64))["probability"].shape == (4, 1)


@pytest.mark.parametrize("transform", [name for name in TRANSFORMS if name != "none"])
def test_count_without_a_logarithm_is_refused(checkpoint, transform):
    module = export.serving_model(reader_of(checkpoint), transform)
    counts = np.ones((4, checkpoints.DENSE), np.float32)
    ids = tf.zeros([4, len(VOCAB)], tf.int64)
    for value in (-TRANSFORMS[transform], -7.0, np.nan, np.inf):
        counts[2, 3] = value
        with pytest.raises(tf.errors.InvalidArgumentError, match="dense feature 3, sample 2"):
            module.serve_counts(tf.constant(counts), ids)


def test_counts_transform_prefers_the_recorded_one(checkpoint):
    assert export.counts_transform(reader_of(checkpoint)) == "log(x+1)"
    assert export.counts_transform(reader_of(checkpoint), "log(x+1)") == "log(x+1)"
    unknown = reader_of(checkpoint, effective_transform=None)
    assert export.counts_transform(unknown) is None
    assert export.counts_transform(unknown, "log(x+3)") == "log(x+3)"
    with pytest.raises(UserError) as caught:
        export.counts_transform(reader_of(checkpoint), "none")
    assert (caught.value.flag, caught.value.path) == ("applied_transform", str(checkpoint))
    assert "log(x+1)" in str(caught.value)
    with pytest.raises(DamagedError) as caught:
        export.counts_transform(reader_of(checkpoint, effective_transform="log2"))
    assert (caught.value.path, caught.value.found) == (str(checkpoint), "log2")


def test_unknown_transform_exports_one_signature_and_warns(
    checkpoint, tmp_path, monkeypatch, capsys
):
    unknown = reader_of(checkpoint, effective_transform=None)
    monkeypatch.setattr(export, "find_checkpoint", lambda checkpoint, cluster: unknown)
    config = Config().with_values(export_dir=str(tmp_path / "model"))
    assert export.run(config, types.SimpleNamespace(size=1)) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "--applied_transform" in line
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["dense_transform"] is None
    assert "counts_signature" not in described
    assert list(tf.saved_model.load(str(tmp_path / "model")).signatures) == ["serving_default"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"interaction": "fm"}, ["'fm'"]),
        ({"interaction": "cat"}, ["[12, 3]", "[8, 3]"]),
        ({"bottom_mlp": "5"}, ["--bottom_mlp", "4", "5"]),
        ({"bottom_mlp": "1048576,4"}, ["8 dense variables", "6"]),
        ({"top_mlp": "1048576,1"}, ["1048576]"]),
        ({"top_mlp": "3,2"}, ["[3, 2]"]),
        ({"top_mlp": "three"}, ["--top_mlp=three"]),
    ],
)
def test_damaged_flags_are_refused(checkpoint, tmp_path, flags, words):
    with pytest.raises(DamagedError) as caught:
        export.export(reader_of(checkpoint, flags=flags), tmp_path / "model", "log(x+1)")
    assert caught.value.path == str(checkpoint)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_existing_folder_is_refused(checkpoint, tmp_path):
    with pytest.raises(UserError) as caught:
        export.export(reader_of(checkpoint), tmp_path, "log(x+1)")
    assert (caught.value.flag, caught.value.path) == ("export_dir", str(tmp_path))


def test_failed_export_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(UserError, match="No space left on device") as caught:
        export.export(reader_of(checkpoint), tmp_path / "model", "log(x+1)")
    assert caught.value.flag == "export_dir"
    assert not list(tmp_path.iterdir())


def test_several_ranks_are_refused():
    with pytest.raises(UserError) as caught:
        export.run(Config(), types.SimpleNamespace(size=2))
    assert (caught.value.flag, caught.value.bound) == ("mode", 1)
