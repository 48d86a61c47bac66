"""A step on a GPU copies nothing between host and GPU but the next batch, on one or two ranks."""

import numpy as np
import pytest
import tensorflow as tf

from ops import loader
from tests.support.placement.crossings import crossings
from tests.support.training.small_model import BATCH, DENSE, VOCAB, build
from training.precision import LossScale

GPU = "GPU:0"
# The package of a batch is the only argument of a step in the memory of the GPU.
ON_GPU = (tf.uint8,)


class TwoRanks:
    """The graphs of the collectives of two ranks, without the exchange."""

    rank, size, local_rank, local_size = 0, 2, 0, 2

    def alltoall(self, tensor, splits, name):
        shape = [None, *tensor.shape[1:]]
        return tf.ensure_shape(tf.repeat(tensor, 2, axis=0)[: tf.reduce_sum(splits)], shape), splits

    def all_reduce_mean(self, tensors, name):
        return [tf.identity(tensor) for tensor in tensors]


def specs(tables=len(VOCAB), samples=BATCH):
    return {
        "dense": tf.TensorSpec([BATCH, DENSE], tf.float32),
        "categorical": tf.TensorSpec([samples, tables], tf.int32),
        "label": tf.TensorSpec([BATCH, 1], tf.float32),
    }


def traced(seed, **options):
    """Returns the graph of a step for a GPU."""
    _model, _embedding, _optimizer, step = build(seed, device=GPU, **options)
    return step.trace(specs(), votes=2)


OPTIONS = {
    "default": {},
    "custom interaction": {"custom_interact": True},
    "no overlap": {"overlap": False},
    "float16": {"dtype": "float16", "custom_interact": True},
    "TF interaction, float16": {"dtype": "float16"},
    "concatenation": {"interaction": "cat"},
    "no interaction": {"interaction": "none"},
    "XLA": {"xla": True, "custom_interact": True},
    "XLA, TF interaction": {"xla": True},
    "Adagrad": {"optimizer": "adagrad", "embedding_optimizer": "adagrad"},
    "Adam, FTRL": {"optimizer": "adam", "embedding_optimizer": "ftrl"},
    "rows": {"policy": "row", "compress": True, "embedding_optimizer": "rowwise_adagrad"},
}


@pytest.mark.parametrize("skips", [False, True], ids=["", "skips"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_step_copies_nothing_but_the_next_batch(options, skips, seed):
    scale = LossScale(1024.0, dynamic=True) if skips else LossScale(1024.0)
    assert not [str(crossing) for crossing in crossings(traced(seed, scale=scale, **options), ON_GPU)]
