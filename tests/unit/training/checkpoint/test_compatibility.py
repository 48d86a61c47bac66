"""Which checkpoints fit which data: tables, dense features and the transform of their counts."""

import types

import pytest

from training.checkpoint import manifest
from training.checkpoint.compatibility import check, unchecked
from training.runtime.errors import UserError

FLAGS = {"embedding_dim": 4}
KERNEL = {"file": "dense.00.npy", "shape": [13, 8], "dtype": "float32"}


def reader(data, vocab_sizes=(5, 7)):
    dense = {"10.kernel": {"shape": [3, 1]}, "0.kernel": KERNEL, "1.bias": {"shape": [8]}}
    written = {"vocab_sizes": list(vocab_sizes), "flags": FLAGS, "data": data, "dense": dense}
    return types.SimpleNamespace(folder="CHECKPOINT", manifest=written)


def told(transform, **others):
    return {"layout": "per_table", "effective_transform": transform, "dense_features": 13, **others}


def fits(trained, data, resume=False):
    found = reader(trained)
    lines = check(found, FLAGS, data, (5, 7), resume=resume)
    assert lines == []
    return unchecked(found, data)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("pair", [("log(x+1)", "log(x+3)"), ("log(x+3)", "none")])
def test_data_of_another_transform_is_refused_naming_both(pair, resume):
    trained, given = pair
    with pytest.raises(UserError) as refused:
        check(reader(told(trained)), FLAGS, told(given), (5, 7), resume=resume)
    message = str(refused.value)
    ours, theirs = (t if t == "none" else f"{t} of counts" for t in pair)
    theirs = "counts" if theirs == "none" else theirs
    assert f"checkpoint CHECKPOINT expects dense values that are {ours}" in message
    assert f"the data gives {theirs}: " in message
    assert f"--dense_transform='{trained}'" in message


@pytest.mark.parametrize("transform", ["none", "log(x+1)", "log(x+3)"])
def test_the_same_transform_fits_whoever_applies_it(transform):
    read = {"layout": "raw", "dense_transform": transform, "effective_transform": transform}
    stored = {"layout": "per_table", "dense_transform": "none", "effective_transform": transform}
    assert fits(read, stored) is None
    assert fits(stored, read) is None


@pytest.mark.parametrize(
    ("trained", "given", "words"),
    [
        (None, "log(x+1)", ["does not say which dense transform it expects", "has log(x+1)"]),
        ("log(x+3)", None, ["expects log(x+3)", "does not say what", "--applied_transform"]),
        (None, None, ["does not say which", "does not say what", "--applied_transform"]),
    ],
)
def test_what_is_not_recorded_is_one_line(trained, given, words):
    line = fits(told(trained), told(given))
    for word in ("the dense transform is not checked", *words):
        assert word in line


def test_random_batches_fit_any_transform():
    random = {"layout": "synthetic", "effective_transform": "log(x+1)"}
    assert fits(told("log(x+3)"), random) is None
    assert fits(told(None), random) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"layout": "three_file", "dense_transform": "log(x+3)"}, "log(x+3)"),
        # Of a reader that took the values as they were: counts, or logarithms of them.
        ({"layout": "per_table", "dense_transform": "none"}, None),
        ({"layout": "per_table"}, None),
        (told("none", dense_transform="none"), "none"),
        (told(None, dense_transform="none"), None),
    ],
)
def test_what_older_checkpoints_expect(data, expected):
    assert manifest.expected_transform({"data": data}) == expected


def test_another_number_of_dense_features_is_another_model():
    with pytest.raises(UserError, match=r"takes 13 dense features, the data has 10$"):
        check(reader(told("none")), FLAGS, told("none", dense_features=10), (5, 7), resume=False)


def test_the_table_that_differs_is_named():
    with pytest.raises(UserError, match=r"table 1: the checkpoint has 7 rows, the data 1,300$"):
        check(reader(told("none")), FLAGS, told("none"), (5, 1300), resume=False)


def test_layer_widths_may_be_written_otherwise():
    found = reader(told("none"))
    found.manifest["flags"] = {"bottom_mlp": "16,8"}
    for text in ("16, 8", "[16,8]"):
        assert check(found, {"bottom_mlp": text}, told("none"), (5, 7), resume=False) == []
    with pytest.raises(UserError, match="--bottom_mlp was '16,8', is '16,9'"):
        check(found, {"bottom_mlp": "16,9"}, told("none"), (5, 7), resume=False)
