"""Crossed labels: their files, the AUC recorded for them, and what a model needs to reach it."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dataset import hidden_model, open_dataset, synthetic, validate
from dataset.crossed_model import CrossedModel
from ops.bags import Bags

SIZES = [60, 4, 500, 130, 90]
BAGS = Bags.of((1, 2, 5, 3, 2), ("sum", "mean", "sum", "mean", "sum"))


def write(folder, seed, samples=(9_000, 12_000), jobs=None):
    return synthetic.write_dataset(
        str(folder), *samples, SIZES, seed, jobs, progress=False, labels="crossed", bags=BAGS
    )


@pytest.fixture(scope="module")
def generated(tmp_path_factory, seed_of):
    """(folder, content of generator.json, seed)."""
    folder, seed = tmp_path_factory.mktemp("crossed"), seed_of("test_crossed_model")
    return folder, write(folder, seed), seed


def read(path):
    """Returns (labels, dense counts, ids) of a raw file."""
    records = np.fromfile(path, "<i4").reshape(-1, 1 + 13 + BAGS.slots)
    return records[:, 0], records[:, 1:14], records[:, 14:]


def pooled_scores(model, ids):
    """Returns float64 [n, scores] for each feature: counts of each row times its scores."""
    scores, first = [], 0
    for latents, hotness, pooling in zip(model.latents, BAGS.hotness, BAGS.pooling):
        counts = np.zeros((len(ids), len(latents)))
        for slot in range(first, first + hotness):
            counts[np.arange(len(ids)), ids[:, slot]] += 1
        scores.append(counts @ latents.astype(np.float64) / (hotness if pooling == "mean" else 1))
        first += hotness
    return scores


def dense_effects(model, counts):
    distances = np.log1p(counts.astype(np.float64)) - model._log_median
    return np.tanh(distances / 2) @ model._dense_slope.astype(np.float64)


def products(model, scores):
    """Returns float64 [n, triples]."""
    columns = [[scores[feature][:, score] for feature, score in t] for t in model.triples]
    return np.stack([a * b * c for a, b, c in columns], axis=1)


def test_write_dataset_writes_bags(generated):
    folder, facts, _ = generated
    train, test = open_dataset(folder)
    assert (train.samples, test.samples, train.vocab_sizes) == (9_000, 12_000, SIZES)
    assert train.bags.hotness == test.bags.hotness == BAGS.hotness
    assert train.bags.pooling == test.bags.pooling == BAGS.pooling
    assert test.attainable_auc == facts["files"]["test_data.bin"]["attainable_auc"]
    for split in (train, test):
        assert validate.validate(split, progress=False)[1] == []


def test_write_dataset_depends_on_the_seed_and_not_on_the_threads(generated, tmp_path):
    folder, _, seed = generated
    for jobs in (1, 3):
        write(tmp_path / str(jobs), seed, jobs=jobs)
        for path in folder.iterdir():
            assert (tmp_path / str(jobs) / path.name).read_bytes() == path.read_bytes()
    write(tmp_path / "other", seed + 1, samples=(100, 12_000))
    other = (tmp_path / "other" / "test_data.bin").read_bytes()
    assert other != (folder / "test_data.bin").read_bytes()


def test_pooled_scores_of_the_files_give_the_recorded_auc(generated):
    folder, facts, seed = generated
    model = CrossedModel(SIZES, BAGS, seed)
    for name, entry in facts["files"].items():
        labels, counts, ids = read(folder / name)
        scores = pooled_scores(model, ids)
        effects = sum(s @ slopes for s, slopes in zip(scores, model._slopes))
        parts = dense_effects(model, counts), effects, products(model, scores) @ model.signs
        logits = sum(factor * part for factor, part in zip(model._factors, parts))
        assert roc_auc_score(labels, logits) == pytest.approx(entry["attainable_auc"], abs=1e-6)
        # Six standard errors of the AUC, bounded by sqrt(AUC (1 - AUC) / positives).
        target = hidden_model.TARGET_AUC
        error = 6 * np.sqrt(target * (1 - target) / labels.sum())
        assert abs(entry["attainable_auc"] - target) < error
        assert abs(labels.mean() - hidden_model.TARGET_RATE) < 0.03


def test_scores_are_standardised_and_triples_take_turns(generated, rng):
    model = CrossedModel(SIZES, BAGS, generated[2])
    features, _ = model.sample(rng, 40_000)
    for scores in pooled_scores(model, features[:, 13:]):
        np.testing.assert_allclose(scores.mean(axis=0), 0, atol=6 / np.sqrt(len(scores)))
        np.testing.assert_allclose(scores.std(axis=0), 1, atol=0.05)
    used = [0] * len(SIZES)
    for triple in model.triples:
        assert len({feature for feature, _ in triple}) == 3
        for feature, score in triple:
            assert score == used[feature]
            used[feature] += 1
    assert max(used) - min(used) <= 1
    assert [latents.shape[1] for latents in model.latents] == used


def logistic_regression(inputs, labels):
    """Returns the weights [columns + 1] that minimise the log loss, by Newton's method."""
    inputs = np.hstack([inputs, np.ones((len(inputs), 1))])
    weights = np.zeros(inputs.shape[1])
    ridge = 1e-3 * np.eye(len(weights))
    for _ in range(7):
        chances = 1 / (1 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (chances - labels) + ridge @ weights
        curvature = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + ridge
        weights -= np.linalg.solve(curvature, gradient)
    return weights


def test_products_of_two_scores_do_not_reach_the_auc_but_those_of_three_do(generated):
    folder, facts, seed = generated
    model = CrossedModel(SIZES, BAGS, seed)
    labels, counts, ids = read(folder / "test_data.bin")
    by_feature = pooled_scores(model, ids)
    scores = np.hstack([dense_effects(model, counts)[:, None], *by_feature])
    first, second = np.triu_indices(scores.shape[1])
    best = facts["files"]["test_data.bin"]["attainable_auc"]

    def fitted_auc(*columns):
        """AUC on the samples of the fit, which is higher than on others."""
        inputs = np.hstack(columns)
        return roc_auc_score(labels, inputs @ logistic_regression(inputs, labels)[:-1])

    assert fitted_auc(scores, scores[:, first] * scores[:, second]) < best - 0.05
    assert abs(fitted_auc(scores, products(model, by_feature)) - best) < 0.005


def test_crossed_labels_need_three_features(tmp_path, capsys):
    command = ["--output", str(tmp_path), "--train_samples=9", "--test_samples=9"]
    assert synthetic.main([*command, "--labels=crossed", "--vocab_sizes=9,8"]) == 2
    assert "expected at least 3 categorical features, found 2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_command_writes_default_tables_or_given_ones(tmp_path, capsys):
    def run(name, *more):
        command = ["--output", str(tmp_path / name), "--train_samples=90", "--test_samples=40"]
        return synthetic.main([*command, *more])

    assert run("default", "--labels=crossed") == 0
    train, _ = open_dataset(tmp_path / "default")
    assert tuple(train.vocab_sizes) == synthetic.CROSSED_VOCAB_SIZES
    assert train.bags == Bags.of(synthetic.CROSSED_HOTNESS)
    assert run("one_hot", "--labels=crossed", "--vocab_sizes=9,1,7,6") == 0
    assert open_dataset(tmp_path / "one_hot")[0].bags.is_one_hot
    for pooling in ("mean,mean,mean", "mean"):
        lists = ("--vocab_sizes=9,8,7", "--hotness=1,3,2", f"--pooling={pooling}")
        assert run(pooling, "--labels=crossed", *lists) == 0
        assert open_dataset(tmp_path / pooling)[0].bags == Bags.of((1, 3, 2), "mean")
    capsys.readouterr()
    for wrong in (["--hotness=1,3"], ["--pooling=sum"]):
        assert run("wrong", *wrong) == 2
        assert "has no effect without --labels=crossed" in capsys.readouterr().err
    assert run("wrong", "--labels=crossed", "--vocab_sizes=9,8,7", "--hotness=1,3") == 2
    assert "hotness" in capsys.readouterr().err
