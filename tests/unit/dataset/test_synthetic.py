"""The generator: its bytes, its distributions, and the AUC that it records."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from dataset import hidden_model, open_dataset, synthetic, validate

SIZES = [900, 4, 5000, 200, 1500]


@pytest.fixture(scope="module")
def generated(tmp_path_factory, seed_of):
    """(folder, content of generator.json, seed)."""
    folder, seed = tmp_path_factory.mktemp("synthetic"), seed_of("test_synthetic")
    facts = synthetic.write_dataset(str(folder), 70_000, 5_000, SIZES, seed, progress=False)
    return folder, facts, seed


def test_write_dataset_writes_a_raw_dataset(generated):
    folder, facts, _ = generated
    train, test = open_dataset(folder)
    assert (train.samples, test.samples, train.vocab_sizes) == (70_000, 5_000, SIZES)
    assert test.attainable_auc == facts["files"]["test_data.bin"]["attainable_auc"]
    for split in (train, test):
        assert validate.validate(split, progress=False)[1] == []


@pytest.mark.parametrize("jobs", [1, 3])
def test_write_dataset_does_not_depend_on_the_threads(generated, tmp_path, jobs):
    folder, _, seed = generated
    synthetic.write_dataset(str(tmp_path), 70_000, 5_000, SIZES, seed, jobs, progress=False)
    for name in ("train_data.bin", "test_data.bin", "generator.json", "vocab_sizes.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_write_dataset_depends_on_the_seed(generated, tmp_path):
    folder, _, seed = generated
    synthetic.write_dataset(str(tmp_path), 70_000, 100, SIZES, seed + 1, progress=False)
    assert (tmp_path / "train_data.bin").read_bytes() != (folder / "train_data.bin").read_bytes()


def test_hidden_model_reaches_its_auc_and_rate(rng, seed):
    model = hidden_model.HiddenModel(SIZES, seed)
    _, logits = model.sample(rng, 100_000)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    labels = rng.random(len(probabilities)) < probabilities
    drawn = roc_auc_score(labels, probabilities)
    # Six standard errors of the AUC, bounded by sqrt(AUC (1 - AUC) / positives).
    error = 6 * np.sqrt(drawn * (1 - drawn) / labels.sum())
    assert abs(drawn - hidden_model.auc_of_probabilities(probabilities)) < error
    assert abs(drawn - hidden_model.TARGET_AUC) < 2 * error
    assert abs(labels.mean() - hidden_model.TARGET_RATE) < 0.02
    assert synthetic.auc(labels, logits) == pytest.approx(drawn, abs=1e-12)


def test_auc_equals_scikit_learns_with_ties(rng):
    scores = rng.integers(0, 20, 3000).astype(np.float32)
    labels = rng.integers(0, 2, 3000)
    expected = roc_auc_score(labels, scores)
    assert synthetic.auc(labels, scores) == pytest.approx(expected, abs=1e-12)
    assert synthetic.auc(np.ones(5), np.arange(5)) is None


def test_power_law_ids_follow_the_law_and_fill_the_vocabulary():
    uniform = (np.arange(400_000, dtype=np.float32) + 0.5) / 400_000
    ids = hidden_model.power_law_ids(uniform, 300)
    assert ids.min() == 0 and ids.max() == 299
    edges = (np.arange(301) + 5.0) ** -0.5
    law = (edges[:-1] - edges[1:]) / (edges[0] - edges[-1])
    np.testing.assert_allclose(np.bincount(ids) / len(ids), law, rtol=0.05)


def test_dense_counts_are_heavy_tailed_with_missing_values(rng, seed):
    features, _ = hidden_model.HiddenModel(SIZES, seed).sample(rng, 50_000)
    dense = features[:, :13]
    assert dense.min() == 0
    # At least 2 percent are missing; six standard errors of that are 0.4 percent.
    assert ((dense == 0).mean(axis=0) > 0.016).all()
    # The smallest log-spread is 0.7, and the maximum of 50,000 exceeds 3.5 spreads: exp(2.4) = 11.
    assert (dense.max(axis=0) > 8 * np.median(dense, axis=0)).all()


def test_labels_need_ids_and_interactions(rng):
    """Linear models without ids, or without interactions, score lower than the true logits."""
    # In 1 of 1000 models ids and interactions nearly cancel; in this one they do not.
    model = hidden_model.HiddenModel(SIZES, seed=0)
    features, logits = model.sample(rng, 30_000)
    labels = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
    best = roc_auc_score(labels, logits)
    # The differences are 0.17 and 0.08, with a sampling error of 0.006.
    dense = np.log1p(features[:, :13])
    hot = [features[:, 13 + t, None] == np.arange(min(40, rows)) for t, rows in enumerate(SIZES)]
    for columns, margin in [([dense], 0.1), ([dense, *hot], 0.01)]:
        inputs = np.hstack(columns).astype(np.float32)
        fitted = LogisticRegression(solver="newton-cholesky").fit(inputs[:15_000], labels[:15_000])
        reached = roc_auc_score(labels[15_000:], fitted.decision_function(inputs[15_000:]))
        assert reached < best - margin


def test_synthetic_command_writes_a_dataset(tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--train_samples", "500", "--test_samples", "100"]
    assert synthetic.main([*arguments, "--vocab_sizes", "300,20,1000"]) == 0
    assert "test_data.bin: 100 samples, attainable AUC 0." in capsys.readouterr().out
    assert json.loads((tmp_path / "vocab_sizes.json").read_text()) == [300, 20, 1000]
    assert synthetic.main([*arguments, "--vocab_sizes", "300,x"]) == 2
    assert "--vocab_sizes" in capsys.readouterr().err
    for wrong in (["--train_samples", "0"], ["--seed", "-1"]):
        with pytest.raises(SystemExit) as stopped:
            synthetic.main([*arguments, *wrong])
        assert stopped.value.code == 2
