"""One of two ranks without the other, for checks of where tensors are."""

import tensorflow as tf


class TwoRanks:
    """The collectives of two ranks as ops with the right types and shapes, without an exchange."""

    rank, size, local_rank, local_size = 0, 2, 0, 2

    def alltoall(self, tensor, splits, name):
        shape = [None, *tensor.shape[1:]]
        return tf.raw_ops.PlaceholderWithDefault(input=tensor, shape=shape), splits

    def all_reduce_mean(self, tensors, name):
        return [tf.negative(tensor) for tensor in tensors]
