"""Evaluation in one process: each sample once, from files or from memory, and how it stops."""

import types

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import log_loss, roc_auc_score

from dataset import reader
from tests.support.thread_ranks import ThreadRanks
from training.evaluation import STOP_INTERVAL, evaluate
from training.evaluation_cache import CachedBatches
from training.metrics.exact_auc import exact_auc

ROWS, VOCAB = 10, 50


@pytest.fixture
def files(tmp_path):
    """997 samples as files: (path of the folder, ids, labels); a sample's logit is its id / 10."""
    generator = np.random.default_rng()
    ids = generator.integers(0, VOCAB, 997).astype(np.int32)
    labels = (generator.random(997) < ids / VOCAB).astype(np.int32)
    ids.tofile(tmp_path / "ids.bin")
    labels.tofile(tmp_path / "labels.bin")
    return tmp_path, ids, labels


def batches_of(folder, cluster):
    """Returns a function to batches of at most 10 samples a rank, read from the files each time."""

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


class Told(list):
    def __call__(self, text):
        self.append(text)


def cached(folder, cluster, available=1 << 40):
    told = Told()
    batches = CachedBatches(batches_of(folder, cluster), cluster, told, lambda: available)
    return batches, told


def scores(result):
    return result.auc, result.log_loss, result.samples


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("auc", ["exact", "binned"])
def test_every_sample_counts_once(files, size, auc):
    folder, ids, labels = files

    def body(cluster):
        beats = []
        test = batches_of(folder, cluster)
        result = evaluate(forward, data(test), cluster, lambda: beats.append(1), auc=auc)
        assert len(beats) == -(-997 // (ROWS * size))
        return scores(result)

    results = ThreadRanks(size).run(body)
    probability = 1 / (1 + np.exp(-ids / 10))
    assert results[0] == pytest.approx(
        (roc_auc_score(labels, ids), log_loss(labels, probability), 997),
        abs=1e-6 if auc == "exact" else 1e-3,
    )
    assert len(set(results)) == 1
    if auc == "exact":
        assert results[0][0] == pytest.approx(exact_auc(ids, labels), abs=1e-15)


@pytest.mark.parametrize("size", [1, 2])
def test_later_evaluations_read_no_file(files, size):
    folder, _, _ = files

    def body(cluster):
        plain = scores(evaluate(forward, data(batches_of(folder, cluster)), cluster))
        batches, told = cached(folder, cluster)
        first = scores(evaluate(forward, data(batches), cluster))
        cluster.all_reduce_sum([0.0])  # no rank is still reading
        if cluster.rank == 0:
            for file in folder.iterdir():
                file.unlink()
        cluster.all_reduce_sum([0.0])
        with pytest.raises(tf.errors.NotFoundError):
            next(iter(batches._batches()))
        again = [scores(evaluate(forward, data(batches), cluster)) for _ in range(2)]
        assert told == []
        assert [first, *again] == [plain] * 3

    ThreadRanks(size).run(body)


def test_a_real_data_set_is_cached(small_dataset):
    import dataset

    _, test = dataset.open_dataset(small_dataset)
    told, passes = Told(), []

    def batches():
        passes.append(1)
        return reader.batches(test, 240, drop_remainder=False)

    cache = CachedBatches(batches, ThreadRanks(1).run(lambda cluster: cluster)[0], told)
    first, second = ([{k: v.numpy() for k, v in b.items()} for b in cache()] for _ in range(2))
    assert passes == [1]
    assert told == []
    assert len(first) == len(second) == -(-3001 // 240)
    for one, other in zip(first, second):
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key])


def test_where_one_rank_has_no_room_all_read_again(files):
    """A pass is 34 batches a rank of 10 ids, 10 labels and one count, 4 bytes each."""
    folder, _, _ = files
    needed = 34 * (10 + 10 + 1) * 4

    def body(cluster, available):
        batches, told = cached(folder, cluster, available[cluster.rank])
        results = [scores(evaluate(forward, data(batches), cluster)) for _ in range(2)]
        assert results[0] == results[1]
        assert len(told) in (0, 1)
        return batches, told

    enough, short = 4 * needed, 4 * needed - 4
    for _, told in ThreadRanks(3).run(lambda cluster: body(cluster, [enough] * 3)):
        assert told == []
    for batches, told in ThreadRanks(3).run(lambda c: body(c, [enough, short, enough])):
        assert len(told) == 1
        assert "1 of 3 ranks" in told[0]
        (folder / "ids.bin").rename(folder / "gone")
        with pytest.raises(tf.errors.NotFoundError):
            list(batches())
        (folder / "gone").rename(folder / "ids.bin")


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("asked_at", [0, 1, STOP_INTERVAL, 50])
def test_one_rank_that_wants_to_stop_ends_the_pass_on_all(files, size, asked_at):
    folder, ids, labels = files
    for _ in range(3 if size == 3 else 0):  # enough batches for three ranks
        ids, labels = np.tile(ids, 2), np.tile(labels, 2)
    ids.tofile(folder / "ids.bin")
    labels.tofile(folder / "labels.bin")

    def body(cluster):
        batches, _ = cached(folder, cluster)
        done = []

        def stop():
            return cluster.rank == size - 1 and len(done) >= asked_at

        result = evaluate(forward, data(batches), cluster, lambda: done.append(1), stop)
        whole = evaluate(forward, data(batches), cluster)
        return result, len(done), whole.samples

    # Heard at the next multiple of STOP_INTERVAL batches; the broken-off pass is not the cache.
    expected = -(-asked_at // STOP_INTERVAL) * STOP_INTERVAL
    assert ThreadRanks(size).run(body) == [(None, expected, len(ids))] * size
