"""One of two ranks without the other, for checks of where tensors are."""

import types

import tensorflow as tf

from training.runtime.process_group import HorovodProcessGroup


class TwoRanks:
    """The collectives of two ranks as ops with the right types and shapes, without an exchange."""

    rank, size, local_rank, local_size = 0, 2, 0, 2

    def alltoall(self, tensor, splits, name):
        shape = [None, *tensor.shape[1:]]
        return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=shape, name=name), splits

    def all_reduce_mean(self, tensors, name):
        return [tf.negative(tensor, name=name) for tensor in tensors]


def horovod_ranks():
    """Returns the real process group of two ranks, over a module that has `TwoRanks`' ops.

    As in Horovod, splits and counts are in host memory.
    """
    ranks = TwoRanks()

    def alltoall(tensor, splits, name):
        with tf.device("CPU:0"):
            counts = tf.negative(splits)
        return ranks.alltoall(tensor, splits, name)[0], counts

    return HorovodProcessGroup(
        types.SimpleNamespace(
            rank=lambda: 0, size=lambda: 2, local_rank=lambda: 0, local_size=lambda: 2,
            alltoall=alltoall, Average="average",
            grouped_allreduce=lambda tensors, name, op: ranks.all_reduce_mean(tensors, name),
        )
    )  # fmt: skip
