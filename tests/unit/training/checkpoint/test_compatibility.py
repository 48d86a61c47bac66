"""`compatibility.check`: which checkpoints match which jobs."""

import re
import types

import pytest

from training.checkpoint import manifest
from training.checkpoint.compatibility import check, unchecked
from training.checkpoint.errors import DamagedError
from training.runtime.errors import UserError

VOCAB = (5, 7)
FLAGS = {
    "embedding_dim": 4, "global_batch_size": 24, "lr": 1.0, "optimizer": "sgd",
    "embedding_optimizer": "sgd", "bottom_mlp": "16,8",
}  # fmt: skip
KERNEL = {"file": "dense.00.npy", "shape": [13, 8], "dtype": "float32"}


def reader(data, **flags):
    """Returns the `Reader` of a checkpoint of a job with FLAGS, except those given."""
    dense = {"10.kernel": {"shape": [3, 1]}, "0.kernel": KERNEL, "1.bias": {"shape": [8]}}
    written = {"vocab_sizes": [*VOCAB], "flags": {**FLAGS, **flags}, "data": data, "dense": dense}
    return types.SimpleNamespace(folder="CHECKPOINT", manifest=written)


def data_with(transform, **others):
    return {"layout": "per_table", "effective_transform": transform, "dense_features": 13, **others}


def job_check(found, data, resume=True, vocab=VOCAB, **flags):
    return check(found, {**FLAGS, **flags}, data, vocab, resume=resume)


def refusal(found, data, **job):
    """Returns the error of `check`."""
    with pytest.raises(UserError) as caught:
        job_check(found, data, **job)
    assert caught.value.path == "CHECKPOINT"
    return caught.value


def transform_line(trained, data):
    """Asserts that a checkpoint fits, and returns the line about an unchecked transform."""
    found = reader(trained)
    assert job_check(found, data, resume=False) == []
    return unchecked(found, data)


@pytest.mark.parametrize("pair", [("log(x+1)", "log(x+3)"), ("log(x+3)", "none")])
def test_data_with_another_transform_is_refused(pair):
    trained, given = pair
    error = refusal(reader(data_with(trained)), data_with(given), resume=False)
    assert error.flag == "dense_transform"
    assert f"--dense_transform='{trained}'" in str(error)


@pytest.mark.parametrize("transform", ["none", "log(x+1)", "log(x+3)"])
def test_the_same_transform_fits_whether_stored_or_applied(transform):
    read = {"layout": "raw", "dense_transform": transform, "effective_transform": transform}
    stored = {"layout": "per_table", "dense_transform": "none", "effective_transform": transform}
    assert transform_line(read, stored) is None
    assert transform_line(stored, read) is None


@pytest.mark.parametrize(
    ("trained", "given", "word"),
    [(None, "log(x+1)", "log(x+1)"), ("log(x+3)", None, "log(x+3)"), (None, None, "CHECKPOINT")],
)
def test_an_unrecorded_transform_is_reported(trained, given, word):
    line = transform_line(data_with(trained), data_with(given))
    assert word in line
    assert ("--applied_transform" in line) == (given is None)


def test_random_batches_fit_any_transform():
    random = {"layout": "synthetic", "effective_transform": "log(x+1)"}
    assert transform_line(data_with("log(x+3)"), random) is None
    assert transform_line(data_with(None), random) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"layout": "three_file", "dense_transform": "log(x+3)"}, "log(x+3)"),
        # The reader left the values unchanged: counts, or logarithms of them.
        ({"layout": "per_table", "dense_transform": "none"}, None),
        ({"layout": "per_table"}, None),
        (data_with("none", dense_transform="none"), "none"),
        (data_with(None, dense_transform="none"), None),
    ],
)
def test_expected_transform_of_older_checkpoints(data, expected):
    assert manifest.expected_transform({"data": data}) == expected


def test_another_number_of_dense_features_is_refused():
    error = refusal(reader(data_with("none")), data_with("none", dense_features=10))
    assert (error.expected, error.found) == (13, 10)


@pytest.mark.parametrize(("vocab", "table"), [((5, 1300), 1), ((6, 8), 0), ((5,), None)])
def test_other_tables_are_refused(vocab, table):
    error = refusal(reader(data_with("none")), data_with("none"), vocab=vocab, resume=False)
    assert error.table == table


@pytest.mark.parametrize(
    ("flag", "value"),
    [("embedding_dim", 16), ("bottom_mlp", "16,9"), ("optimizer", "adam"),
     ("embedding_optimizer", "ftrl")],
)  # fmt: skip
def test_another_model_is_refused(flag, value):
    data = data_with("none")
    error = refusal(reader(data), data, resume=False, **{flag: value})
    assert (error.flag, error.expected, error.found) == (flag, FLAGS[flag], value)


def test_optimizers_matter_only_to_training_and_the_format_of_widths_never():
    data = data_with("none")
    flags = {**FLAGS, "optimizer": "adam", "embedding_optimizer": "ftrl", "bottom_mlp": "[16, 8]"}
    assert check(reader(data), flags, data, VOCAB, resume=False, training=False) == []


def test_only_a_resumed_run_needs_the_same_batches():
    data = data_with("none", train_samples=1000)
    found = reader(data)
    error = refusal(found, data, global_batch_size=48)
    assert (error.flag, error.expected, error.found) == ("global_batch_size", 24, 48)
    assert "--restore=CHECKPOINT" in str(error)
    error = refusal(found, {**data, "train_samples": 999})
    assert (error.flag, error.expected, error.found) == (None, 1000, 999)
    assert job_check(found, data, resume=False, global_batch_size=48) == []


def test_changeable_flags_are_reported():
    data = data_with("none")
    assert job_check(reader(data), data) == []
    assert job_check(reader(data), data, lr=2.0) == ["--lr was 1.0, is 2.0"]
    # Options that give the same hyperparameters are equal.
    ftrl = {"embedding_optimizer": "ftrl"}
    options = {**ftrl, "embedding_optimizer_options": "beta=0,l1=0.0"}
    assert job_check(reader(data, **ftrl), data, **options) == []
    options["embedding_optimizer_options"] = "l1=0.5"
    (line,) = job_check(reader(data, **ftrl), data, **options)
    assert line.startswith("--embedding_optimizer_options ")
    assert "l1=0.5" in line


def test_changed_options_of_the_dense_optimizer_are_reported():
    data, adam = data_with("none"), {"optimizer": "adam"}
    same = {**adam, "optimizer_options": "epsilon=1e-7,beta1=0.9"}
    assert job_check(reader(data, **adam), data, **same) == []
    changed = {**adam, "optimizer_options": "beta2=0.99"}
    (line,) = job_check(reader(data, **adam), data, **changed)
    assert line == "--optimizer_options was None, is 'beta2=0.99'"
    # A checkpoint older than the flag does not have it.
    found = reader(data, **adam)
    found.manifest["flags"].pop("optimizer_options", None)
    assert job_check(found, data, **adam) == []
    adagrad = {"optimizer": "adagrad"}
    found = reader(data, **adagrad)
    (line,) = job_check(found, data, **adagrad)
    assert "--optimizer=adagrad" in line
    assert job_check(reader(data, **adagrad, optimizer_options=None), data, **adagrad) == []


TWO_AND_LIST = {"hotness": [2, 3], "pooling": ["sum", "mean"], "variable": [False, True]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hotness": [4, 3]}, "table 0: .* 2 \\(sum\\), but the data has 4 \\(sum\\)"),
        (
            {"pooling": ["sum", "sum"]},
            "table 1: .* at most 3 \\(mean\\), but .* at most 3 \\(sum\\)",
        ),
        ({"variable": [False, False]}, "table 1: .* at most 3 \\(mean\\), but .* 3 \\(mean\\)"),
    ],
)
def test_data_with_other_ids_per_sample_is_refused(change, words):
    found = reader(data_with("none", bags=TWO_AND_LIST))
    error = refusal(found, data_with("none", bags={**TWO_AND_LIST, **change}), resume=False)
    assert re.search(words, str(error))
    assert refusal(found, data_with("none"), resume=False).table == 0


def test_lists_of_another_length_and_random_batches_fit():
    found = reader(data_with("none", bags=TWO_AND_LIST))
    longer = data_with("none", bags={**TWO_AND_LIST, "hotness": [2, 9]})
    assert job_check(found, longer, resume=False) == []
    # Random batches have neither pooling nor lists.
    drawn = {"hotness": [2, 3], "pooling": ["sum", "sum"], "variable": [False, False]}
    assert job_check(found, {"layout": "synthetic", "bags": drawn}, resume=False) == []
    assert refusal(found, {"layout": "synthetic"}, resume=False).table == 0
    # One id of each sample is its own mean.
    one_each = {"hotness": [1, 1], "pooling": ["mean", "mean"], "variable": [False, False]}
    assert job_check(reader(data_with("none")), data_with("none", bags=one_each), False) == []


@pytest.mark.parametrize("hotness", [[2, 3, 4], [2, 65537]])
def test_damaged_bags_are_reported(hotness):
    damaged = data_with("none", bags={**TWO_AND_LIST, "hotness": hotness})
    with pytest.raises(DamagedError, match=r"data\.bags"):
        job_check(reader(damaged), data_with("none"), resume=False)
