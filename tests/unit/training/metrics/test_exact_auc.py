"""The exact AUC equals scikit-learn's and the definition, on any number of ranks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tests.support.thread_ranks import ThreadRanks
from training.metrics import exact_auc as module
from training.metrics.exact_auc import ExactAuc


def exact_auc(scores, labels, cluster):
    metric = ExactAuc()
    metric.add(scores, labels)
    return metric.result(cluster)


def _distributed(scores, labels, bounds):
    ranks = ThreadRanks(len(bounds) + 1)
    parts = list(zip(np.split(scores, bounds), np.split(labels, bounds)))
    results = ranks.run(lambda cluster: exact_auc(*parts[cluster.rank], cluster))
    assert len({repr(result) for result in results}) == 1
    return results[0]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_exact_auc_equals_scikit_learn(size, ties, rng):
    scores = rng.normal(size=100_000).astype(np.float32)
    if ties:
        scores = np.round(scores, 1)
    labels = (rng.random(100_000) < 1 / (1 + np.exp(-scores))).astype(np.int8)
    bounds = np.sort(rng.integers(0, 100_000, size - 1))
    assert _distributed(scores, labels, bounds) == pytest.approx(
        roc_auc_score(labels, scores), abs=1e-12
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_exact_auc_equals_the_definition(data):
    count = data.draw(st.integers(2, 60))
    finite = st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf])
    scores = np.array(data.draw(st.lists(finite, min_size=count, max_size=count)), np.float32)
    labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    size = data.draw(st.integers(1, 4))
    bounds = sorted(
        data.draw(st.lists(st.integers(0, count), min_size=size - 1, max_size=size - 1))
    )
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels == 1] for n in scores[labels == 0]]
    result = _distributed(scores, labels, bounds)
    if pairs:
        assert result == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    else:
        assert math.isnan(result)


def test_ranks_with_disjoint_ranges_of_scores(rng):
    scores = np.sort(rng.normal(size=30_000).astype(np.float32))
    labels = rng.integers(0, 2, 30_000)
    bounds = [100, 29_000]
    assert _distributed(scores, labels, bounds) == pytest.approx(
        roc_auc_score(labels, scores), abs=1e-12
    )


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 5000])
def test_scores_in_many_blocks_and_exchanges(monkeypatch, size, count, rng):
    monkeypatch.setattr(module, "_BLOCK", 100)
    monkeypatch.setattr(module, "_CHUNK", 64)
    scores = np.round(rng.normal(size=count), 2).astype(np.float32)
    labels = rng.integers(0, 2, count)
    parts = np.array_split(np.arange(count), 7 * size)

    def body(cluster):
        metric = ExactAuc()
        for part in parts[cluster.rank :: size]:
            metric.add(scores[part], labels[part])
        return metric.result(cluster)

    results = ThreadRanks(size).run(body)
    if len(set(labels)) == 2:
        assert results == [pytest.approx(roc_auc_score(labels, scores), abs=1e-12)] * size
    else:
        assert all(math.isnan(result) for result in results)


def test_add_refuses_different_lengths():
    with pytest.raises(ValueError, match=r"3.*2"):
        ExactAuc().add([0.1, 0.2, 0.3], [0, 1])
