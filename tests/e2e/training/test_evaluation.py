"""Evaluation with threads as ranks: each sample once, from files or from memory; stopping."""

import dataclasses
import types
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import log_loss, roc_auc_score

from dataset import reader
from tests.support.thread_ranks import ThreadRanks
from training.config import EvaluationConfig
from training.evaluation import STOP_INTERVAL, evaluate, evaluator
from training.evaluation_cache import CachedBatches

ROWS, VOCAB = 10, 50


@pytest.fixture
def files(tmp_path, rng):
    """997 samples as files: (folder, ids, labels); the logit of a sample is its id / 10."""
    ids = rng.integers(0, VOCAB, 997).astype(np.int32)
    labels = (rng.random(997) < ids / VOCAB).astype(np.int32)
    ids.tofile(tmp_path / "ids.bin")
    labels.tofile(tmp_path / "labels.bin")
    return tmp_path, ids, labels


def batches_of(folder, cluster):
    """Returns a function that reads batches of at most 10 samples per rank from the files."""

    def read(path, begin, count):
        raw = tf.strings.substr(tf.io.read_file(str(path)), 4 * begin, 4 * count)
        values = tf.io.decode_raw(raw, tf.int32)
        return tf.pad(values, [[0, ROWS - count]])[:, None]

    total = len(np.fromfile(folder / "ids.bin", np.int32))
    steps = -(-total // (ROWS * cluster.size))

    def batch(step):
        begin = tf.minimum((step * cluster.size + cluster.rank) * ROWS, total)
        count = tf.clip_by_value(total - begin, 0, ROWS)
        ids = read(folder / "ids.bin", begin, count)
        label = tf.cast(read(folder / "labels.bin", begin, count), tf.float32)
        return {
            "categorical": tf.ensure_shape(ids, [ROWS, 1]),
            "label": tf.ensure_shape(label, [ROWS, 1]),
            "valid": count,
        }

    return lambda: tf.data.Dataset.range(steps).map(lambda step: batch(tf.cast(step, tf.int32)))


def forward(batch):
    return tf.cast(batch["categorical"], tf.float32) / 10


def data(test):
    return types.SimpleNamespace(test=test)


def cached(folder, cluster, available=1 << 40):
    messages = []
    batches = CachedBatches(
        batches_of(folder, cluster), cluster, lambda text: messages.append(text), lambda: available
    )
    return batches, messages


def scores(result):
    return result.auc, result.log_loss, result.samples


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("auc", ["exact", "binned"])
def test_every_sample_counts_once(files, size, auc):
    folder, ids, labels = files

    def body(cluster):
        heartbeats = []
        test = batches_of(folder, cluster)
        result = evaluate(forward, data(test), cluster, lambda: heartbeats.append(1), auc=auc)
        assert len(heartbeats) == -(-997 // (ROWS * size))
        return scores(result)

    results = ThreadRanks(size).run(body)
    probability = 1 / (1 + np.exp(-ids / 10))
    assert results[0] == pytest.approx(
        (roc_auc_score(labels, ids), log_loss(labels, probability), 997),
        abs=1e-6 if auc == "exact" else 1e-3,
    )
    assert len(set(results)) == 1


@pytest.mark.parametrize("size", [1, 2])
def test_cached_evaluations_read_no_files(files, size):
    folder, _, _ = files

    def body(cluster):
        plain = scores(evaluate(forward, data(batches_of(folder, cluster)), cluster))
        batches, messages = cached(folder, cluster)
        first = scores(evaluate(forward, data(batches), cluster))
        cluster.all_reduce_sum([0.0])  # Barrier: all ranks have finished reading.
        if cluster.rank == 0:
            for file in folder.iterdir():
                file.unlink()
        cluster.all_reduce_sum([0.0])
        with pytest.raises(tf.errors.NotFoundError):
            next(iter(batches._batches()))
        again = [scores(evaluate(forward, data(batches), cluster)) for _ in range(2)]
        assert messages == []
        assert [first, *again] == [plain] * 3

    ThreadRanks(size).run(body)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("auc", ["exact", "binned"])
def test_evaluator_follows_the_configuration(files, cache, auc):
    folder, ids, labels = files
    cluster = ThreadRanks(1).run(lambda cluster: cluster)[0]
    passes = []

    def test():
        passes.append(1)
        return batches_of(folder, cluster)()

    @dataclasses.dataclass
    class Data:
        test: Callable

    def nearly_equal(batch):
        return forward(batch) / 1e4  # Several scores share a bin.

    config = EvaluationConfig(cache_eval_data=cache, auc=auc)
    journal = types.SimpleNamespace(emit=lambda *arguments, **fields: None)
    run = evaluator(config, nearly_equal, Data(test), cluster, journal)
    first, second = (run(lambda: None, lambda: False) for _ in range(2))
    assert len(passes) == (1 if cache else 2)
    assert scores(first) == scores(second)
    exact = roc_auc_score(labels, ids)
    assert (first.auc == pytest.approx(exact, abs=1e-12)) == (auc == "exact")
    assert evaluator(config, forward, Data(None), cluster, journal) is None


def test_dataset_is_cached(small_dataset):
    import dataset

    _, test = dataset.open_dataset(small_dataset)
    passes = []

    def batches():
        passes.append(1)
        return reader.batches(test, 240, drop_remainder=False)

    cluster = ThreadRanks(1).run(lambda cluster: cluster)[0]
    cache = CachedBatches(batches, cluster, pytest.fail)
    first, second = ([{k: v.numpy() for k, v in b.items()} for b in cache()] for _ in range(2))
    assert passes == [1]
    assert len(first) == len(second) == -(-3001 // 240)
    for one, other in zip(first, second):
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key])


def test_no_rank_caches_if_one_lacks_memory(files):
    """A pass is 34 batches per rank with 10 ids, 10 labels and one count, 4 bytes each."""
    folder, _, _ = files
    needed = 34 * (10 + 10 + 1) * 4

    def body(cluster, available):
        batches, messages = cached(folder, cluster, available[cluster.rank])
        results = [scores(evaluate(forward, data(batches), cluster)) for _ in range(2)]
        assert results[0] == results[1]
        return batches, messages

    enough, short = 4 * needed, 4 * needed - 4
    for _, messages in ThreadRanks(3).run(lambda cluster: body(cluster, [enough] * 3)):
        assert messages == []
    for batches, messages in ThreadRanks(3).run(lambda c: body(c, [enough, short, enough])):
        assert len(messages) == 1
        assert "1 of 3 ranks" in messages[0]
        (folder / "ids.bin").rename(folder / "gone")
        with pytest.raises(tf.errors.NotFoundError):
            list(batches())
        (folder / "gone").rename(folder / "ids.bin")


@pytest.mark.parametrize(("size", "requested_after"), [(1, 1), (3, 0), (3, STOP_INTERVAL), (3, 50)])
def test_request_of_one_rank_stops_all(files, size, requested_after):
    folder, ids, labels = files
    for _ in range(3 if size == 3 else 0):  # To have enough batches for three ranks.
        ids, labels = np.tile(ids, 2), np.tile(labels, 2)
    ids.tofile(folder / "ids.bin")
    labels.tofile(folder / "labels.bin")

    def body(cluster):
        batches, _ = cached(folder, cluster)
        done = []

        def stop():
            return cluster.rank == size - 1 and len(done) >= requested_after

        result = evaluate(forward, data(batches), cluster, lambda: done.append(1), stop)
        complete = evaluate(forward, data(batches), cluster)
        return result, len(done), complete.samples

    # Ranks agree after multiples of STOP_INTERVAL batches; the stopped pass is not cached.
    expected = -(-requested_after // STOP_INTERVAL) * STOP_INTERVAL
    assert ThreadRanks(size).run(body) == [(None, expected, len(ids))] * size
