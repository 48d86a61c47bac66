"""The graph of a training step for a GPU, traced without one."""

import tensorflow as tf

from tests.support.training.small_model import SMALL, build

GPU = "GPU:0"


def traced(seed, *, device=GPU, sizes=SMALL, **options):
    """Returns the graph of a step; see `small_model.build`."""
    _model, embedding, _optimizer, step = build(seed, device=device, sizes=sizes, **options)
    ids = [sizes.batch, len(sizes.vocab)]
    if options.get("model_parallel_input"):
        ids = [2 * sizes.batch, len(embedding.placement.tables_of(0))]
    batch = {
        "dense": tf.TensorSpec([sizes.batch, sizes.dense], tf.float32),
        "categorical": tf.TensorSpec(ids, tf.int32),
        "label": tf.TensorSpec([sizes.batch, 1], tf.float32),
    }
    return step.trace(batch, votes=2)
