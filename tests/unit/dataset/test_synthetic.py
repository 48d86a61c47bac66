"""The generator: its bytes, its power law, and the AUC that it claims."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dataset import hidden_model, open_dataset, reader, synthetic

SIZES = [900, 4, 5000, 200, 1500]


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    return folder, synthetic.write_dataset(str(folder), 70_000, 50_000, SIZES, 5, progress=False)


def test_it_is_a_raw_dataset(generated):
    folder, facts = generated
    train, test = open_dataset(folder)
    assert (train.samples, test.samples, train.vocab_sizes) == (70_000, 50_000, SIZES)
    assert test.attainable_auc == facts["files"]["test_data.bin"]["attainable_auc"]
    for split in (train, test):
        assert sum(int(batch["valid"]) for batch in reader.batches(split, 10_000)) == split.samples


@pytest.mark.parametrize("jobs", [1, 3])
def test_same_seed_same_bytes_whatever_the_threads(generated, tmp_path, jobs):
    folder, _ = generated
    synthetic.write_dataset(str(tmp_path), 70_000, 50_000, SIZES, 5, jobs, progress=False)
    for name in ("train_data.bin", "test_data.bin", "generator.json", "vocab_sizes.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_other_seed_other_bytes(generated, tmp_path):
    folder, _ = generated
    synthetic.write_dataset(str(tmp_path), 70_000, 100, SIZES, 6, progress=False)
    assert (tmp_path / "train_data.bin").read_bytes() != (folder / "train_data.bin").read_bytes()


def test_attainable_auc_is_that_of_the_true_probabilities():
    model = hidden_model.HiddenModel(SIZES, 1)
    random = np.random.default_rng(0)
    _, logits = model.sample(random, 200_000)
    chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
    labels = random.random(len(chances)) < chances
    drawn = roc_auc_score(labels, chances)
    assert abs(drawn - hidden_model.auc_of_probabilities(chances)) < 0.003
    assert 0.80 < drawn < 0.82
    assert abs(labels.mean() - hidden_model.TARGET_RATE) < 0.01
    assert synthetic.auc(labels, logits) == pytest.approx(drawn, abs=1e-12)


def test_auc_equals_scikit_learns_with_ties():
    random = np.random.default_rng(2)
    scores = random.integers(0, 20, 3000).astype(np.float32)
    labels = random.integers(0, 2, 3000)
    expected = roc_auc_score(labels, scores)
    assert synthetic.auc(labels, scores) == pytest.approx(expected, abs=1e-12)
    assert synthetic.auc(np.ones(5), np.arange(5)) is None


def test_ids_follow_the_power_law_and_fill_the_vocabulary():
    uniform = (np.arange(400_000, dtype=np.float32) + 0.5) / 400_000
    ids = hidden_model._power_law_ids(uniform, 300)
    assert ids.min() == 0 and ids.max() == 299
    edges = (np.arange(301) + 5.0) ** -0.5
    law = (edges[:-1] - edges[1:]) / (edges[0] - edges[-1])
    np.testing.assert_allclose(np.bincount(ids) / len(ids), law, rtol=0.05)


def test_dense_counts_are_heavy_tailed_with_missing_ones():
    features, _ = hidden_model.HiddenModel(SIZES, 3).sample(np.random.default_rng(1), 50_000)
    dense = features[:, :13]
    assert dense.min() == 0
    assert ((dense == 0).mean(axis=0) > 0.02).all()
    assert (dense.max(axis=0) > 20 * np.median(dense, axis=0)).all()


def test_labels_need_ids_and_interactions():
    """What any sum of effects reaches falls short; so does what ignores the ids."""
    model = hidden_model.HiddenModel(SIZES, 4)
    random = np.random.default_rng(1)
    features, logits = model.sample(random, 80_000)
    labels = random.random(len(logits)) < 1 / (1 + np.exp(-logits))
    best = roc_auc_score(labels, logits)
    dense = np.log1p(features[:, :13])
    hot = [features[:, 13 + t, None] == np.arange(min(40, rows)) for t, rows in enumerate(SIZES)]
    for columns, margin in [([dense], 0.05), ([dense, *hot], 0.02)]:
        inputs = np.hstack(columns).astype(np.float32)
        fitted = LogisticRegression(solver="newton-cholesky").fit(inputs[:40_000], labels[:40_000])
        reached = roc_auc_score(labels[40_000:], fitted.decision_function(inputs[40_000:]))
        assert reached < best - margin


def test_command_line(tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--train_samples", "500", "--test_samples", "100"]
    assert synthetic.main([*arguments, "--vocab_sizes", "300,20,1000"]) == 0
    assert "test_data.bin: 100 samples, attainable AUC 0." in capsys.readouterr().out
    assert json.loads((tmp_path / "vocab_sizes.json").read_text()) == [300, 20, 1000]
    assert synthetic.main([*arguments, "--vocab_sizes", "300,x"]) == 2
    assert "expected integers with commas between" in capsys.readouterr().err
    for wrong in (["--train_samples", "0"], ["--seed", "-1"], ["--jobs", "0"]):
        with pytest.raises(SystemExit) as stopped:
            synthetic.main([*arguments, *wrong])
        assert stopped.value.code == 2
