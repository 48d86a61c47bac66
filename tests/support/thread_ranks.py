"""Ranks as threads of one process, for tests of distributed code without a launcher."""

import threading

import numpy as np
import tensorflow as tf


class ThreadRanks:
    """Runs a function once per rank, in threads, with a process group that connects them."""

    def __init__(self, size):
        self.size = size
        self._barrier = threading.Barrier(size, timeout=200)
        self._slots = [None] * size

    def run(self, function):
        """Returns [function(process group of the rank), ...]; raises the first rank's error."""
        results, errors = [None] * self.size, []

        def body(rank):
            try:
                results[rank] = function(_ThreadCluster(self, rank))
            except Exception as error:
                errors.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=body, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results

    def share(self, rank, value):
        """Returns the values of all ranks; every rank must call it."""
        self._slots[rank] = value
        self._barrier.wait()
        values = list(self._slots)
        self._barrier.wait()
        return values


class _ThreadCluster:
    local_rank, local_size = 0, 1

    def __init__(self, ranks, rank):
        self._ranks, self.rank, self.size = ranks, rank, ranks.size

    def all_reduce_mean(self, tensors, name):
        sums = [self.all_reduce_sum(tensor.numpy()) for tensor in tensors]
        return [tf.constant(total / self.size, t.dtype) for t, total in zip(tensors, sums)]

    def all_reduce_sum(self, values):
        return np.sum(self._ranks.share(self.rank, np.asarray(values)), axis=0)

    def gather(self, value):
        return self._ranks.share(self.rank, value)

    def alltoall(self, tensor, splits, name):
        splits = np.asarray(splits)
        parts = np.split(tensor.numpy(), np.cumsum(splits)[:-1])
        received = [sent[self.rank] for sent in self._ranks.share(self.rank, parts)]
        counts = np.array([len(part) for part in received], np.int32)
        return tf.constant(np.concatenate(received)), tf.constant(counts)

    def alltoallv(self, parts):
        return np.concatenate([sent[self.rank] for sent in self._ranks.share(self.rank, parts)])
