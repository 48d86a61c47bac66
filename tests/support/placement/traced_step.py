"""The graph of a training step for a GPU, traced without one."""

from unittest import mock

import tensorflow as tf

from ops.bags import Bags
from ops.mlp import native as mlp
from tests.support.training.small_model import SMALL, build

GPU = "GPU:0"


def traced(seed, *, device=GPU, sizes=SMALL, **options):
    """Returns the graph of a step on a host with a GPU; see `small_model.build`."""
    kernels = "GPU", (tf.float32, tf.bfloat16, tf.float16)
    with mock.patch.object(mlp, "_kernels", lambda: kernels):
        return _traced(build(seed, device=device, sizes=sizes, **options), sizes, options)


def _traced(built, sizes, options):
    _model, embedding, _optimizer, step = built
    bags = options.get("bags") or Bags.one_hot(len(sizes.vocab))
    ids = [sizes.batch, bags.slots]
    if options.get("model_parallel_input"):
        own = embedding.placement.tables_of(0)
        ids = [2 * sizes.batch, bags.select(own).slots]
    batch = {
        "dense": tf.TensorSpec([sizes.batch, sizes.dense], tf.float32),
        "categorical": tf.TensorSpec(ids, tf.int32),
        "label": tf.TensorSpec([sizes.batch, 1], tf.float32),
    }
    return step.trace(batch, votes=2)
