"""The binned AUC equals Keras' and does not depend on the number of ranks."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tests.support.thread_ranks import ThreadRanks
from training.metrics.binned_auc import BinnedAuc
from training.runtime.process_group import SingleProcessGroup

ONE = SingleProcessGroup()


def samples(count, ties, rng):
    logits = rng.normal(-1, 2, count).astype(np.float32)
    if ties:
        logits = np.round(logits, 1)
        logits[:5] = np.inf, -np.inf, 0, 200, -200
    labels = (rng.random(count) < 0.5 + np.arctan(logits) / np.pi).astype(np.int8)
    return logits, labels


def binned(logits, labels, cluster=ONE, **options):
    logits, labels = np.array(logits, np.float32), np.array(labels)
    metric = BinnedAuc(**options)
    for part in np.array_split(np.arange(len(logits)), 3):
        metric.add(logits[part], labels[part])
    return metric.result(cluster)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("thresholds", [8000, 20])
def test_binned_auc_equals_keras(ties, thresholds, rng):
    logits, labels = samples(200_000, ties, rng)
    keras = tf.keras.metrics.AUC(num_thresholds=thresholds)
    # Rounded once, as ours: an error in the last bit moves a sample to the next bin.
    with np.errstate(over="ignore"):
        keras.update_state(labels, (1 / (1 + np.exp(-logits.astype("f8")))).astype("f4"))
    ours = binned(logits, labels, thresholds=thresholds)
    assert ours == pytest.approx(float(keras.result()), abs=1e-6)


def test_probability_equal_to_a_threshold_is_in_the_bin_below():
    """Four thresholds, 0, 1/3, 2/3 and 1: a probability of 1/3 ties with one of 0.1, not of 0.4."""
    low, third, high = (math.log(p / (1 - p)) for p in (0.1, 0.33333, 0.4))
    assert binned([low, third], [0, 1], thresholds=4) == 0.5
    assert binned([third, high], [0, 1], thresholds=4) == 1.0
    # Exactly on the threshold 1/2, of three.
    assert binned([0.0, 0.01], [0, 1], thresholds=3) == 1.0
    assert binned([0.0, -0.01], [0, 1], thresholds=3) == 0.5


def test_three_ranks_equal_one(rng):
    logits, labels = samples(30_000, True, rng)
    parts = np.split(np.arange(30_000), [7, 20_000])

    def body(cluster):
        part = parts[cluster.rank]
        return binned(logits[part], labels[part], cluster)

    assert ThreadRanks(3).run(body) == [binned(logits, labels)] * 3


def test_equal_labels_give_nan():
    assert math.isnan(binned([0.1, 0.2], [1, 1]))
    assert math.isnan(BinnedAuc().result(ONE))
