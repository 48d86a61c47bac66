"""A step on a GPU copies nothing between host and GPU but the next batch, on one or two ranks."""

import pytest
import tensorflow as tf

from ops import loader
from ops.log_loss.native import MOST_WIDTH
from tests.support.placement.crossings import crossings
from tests.support.placement.traced_step import GPU, traced
from tests.support.placement.two_ranks import TwoRanks, horovod_ranks
from tests.support.training.small_model import SMALL
from training.dense_phases import GpuKernels
from training.precision import LossScale

# Only the package of a batch is a large argument in the memory of the GPU.
ON_GPU = (tf.uint8,)


def found(graph):
    return sorted(str(crossing) for crossing in crossings(graph, ON_GPU))


UPDATE, FUSED = GpuKernels(update=True), GpuKernels(fused=True, update=True)
FUSED_FLOAT16 = {
    "kernels": FUSED, "fused_mlp": True, "custom_interact": True, "dtype": "float16",
}  # fmt: skip
OPTIONS = {
    "default": {},
    "custom interaction": {"custom_interact": True},
    "no overlap": {"overlap": False},
    "float16": {"dtype": "float16", "custom_interact": True},
    "TF interaction, float16": {"dtype": "float16"},
    "concatenation": {"interaction": "cat"},
    "cross": {"interaction": "cross", "cross_rank": 4},
    "no interaction": {"interaction": "none"},
    "XLA": {"xla": True, "custom_interact": True},
    "XLA, TF interaction": {"xla": True},
    "XLA, concatenation": {"xla": True, "interaction": "cat"},
    "XLA, cross": {"xla": True, "interaction": "cross", "cross_rank": 4},
    "XLA, no interaction": {"xla": True, "interaction": "none"},
    "Adagrad": {"optimizer": "adagrad", "embedding_optimizer": "adagrad"},
    "Adam, FTRL": {"optimizer": "adam", "embedding_optimizer": "ftrl"},
    "SGD, Adam": {"embedding_optimizer": "adam"},
    "rows": {"policy": "row", "compress": True, "embedding_optimizer": "rowwise_adagrad"},
    "native update": {"kernels": UPDATE, "custom_interact": True, "dtype": "float16"},
    "native update, XLA": {"kernels": UPDATE, "custom_interact": True, "xla": True},
    "fused": {"kernels": FUSED, "fused_mlp": True, "custom_interact": True},
    "fused, float16": {**FUSED_FLOAT16},
    "fused, TF interaction": {"kernels": FUSED, "fused_mlp": True, "dtype": "float16"},
    "fused, concatenation": {"kernels": FUSED, "fused_mlp": True, "interaction": "cat"},
    "fused, cross": {
        "kernels": FUSED,
        "fused_mlp": True,
        "interaction": "cross",
        "cross_rank": 4,
        "dtype": "float16",
    },
    "fused, no interaction": {"kernels": FUSED, "fused_mlp": True, "interaction": "none"},
    "fused, one top layer": {**FUSED_FLOAT16, "sizes": SMALL._replace(top=(1,))},
    "fused, wide": {**FUSED_FLOAT16, "sizes": SMALL._replace(top=(MOST_WIDTH + 8, 1))},
    "fused, Adam": {**FUSED_FLOAT16, "optimizer": "adam"},
    "fused, Adagrad": {**FUSED_FLOAT16, "optimizer": "adagrad"},
    "fused, Adam of rows": {**FUSED_FLOAT16, "optimizer": "adam", "embedding_optimizer": "adam"},
    "side stream": {**FUSED_FLOAT16, "side_stream": True},
    "side stream, TF interaction": {
        "kernels": FUSED,
        "fused_mlp": True,
        "dtype": "float16",
        "side_stream": True,
    },
    "side stream, layers": {"side_stream": True, "embedding_optimizer": "adagrad"},
}
TWO_RANKS = {
    "tables": {},
    "own tables": {"model_parallel_input": True},
    "rows": {"policy": "row"},
    "compress": {"policy": "row", "compress": True},
    "replicated": {"replicate_below_rows": 60},
    "replicated, Adagrad": {"replicate_below_rows": 60, "embedding_optimizer": "adagrad"},
    "replicated, compress": {"replicate_below_rows": 60, "compress": True},
    "native update": {"kernels": UPDATE},
    "fused": {"kernels": FUSED, "fused_mlp": True, "custom_interact": True},
    "fused, float16": {**FUSED_FLOAT16},
    "fused, rows": {**FUSED_FLOAT16, "policy": "row"},
    "side stream": {**FUSED_FLOAT16, "side_stream": True},
    "side stream, replicated": {
        **FUSED_FLOAT16,
        "side_stream": True,
        "replicate_below_rows": 60,
    },
}


@pytest.mark.parametrize("skips", [False, True], ids=["", "skips"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_step_copies_nothing_but_the_next_batch(options, skips, seed):
    scale = LossScale(1024.0, dynamic=skips)
    assert found(traced(seed, scale=scale, **options)) == []


@pytest.mark.parametrize("skips", [False, True], ids=["", "skips"])
@pytest.mark.parametrize("options", TWO_RANKS.values(), ids=TWO_RANKS)
def test_step_of_two_ranks_copies_nothing_but_the_next_batch(options, skips, seed):
    scale = LossScale(1024.0, dynamic=skips)
    assert found(traced(seed, cluster=TwoRanks(), scale=scale, **options)) == []


@pytest.mark.parametrize("options", [{}, FUSED_FLOAT16], ids=["layers", "fused"])
def test_horovod_keeps_splits_and_counts_on_the_host(options, seed):
    assert found(traced(seed, cluster=horovod_ranks(), **options)) == []


def test_step_without_uploads_copies_each_input_of_the_batch(seed):
    """What TensorFlow would do by itself, with every op that can be on the GPU there."""
    with tf.device(GPU):
        graph = traced(seed, device=None)
    copied = {text for text in found(graph) if text.startswith("host to GPU: inputs")}
    # The ids are used twice, and the learning rate is used by the MLPs and the tables.
    assert len(copied) >= 4


def lookup(table, **given):
    return loader.load().dlrm_embedding_lookup(table=table.handle, row_type=tf.float32, **given)


def _rows_of_tables(table, on_gpu):
    rows = tf.constant([50], tf.int64)  # a constant of the GPU
    lookup(table, ids=tf.cast(on_gpu, tf.int32), base_rows=rows, table_rows=rows, dtype=tf.float32)


def _condition(table, on_gpu):
    read = table.read_value
    tf.cond(tf.reduce_all(on_gpu > 0), lambda: table.assign_add([[1.0]]), read)


def _compiled_gradient(_, on_gpu):
    compiled = tf.function(lambda x: tf.concat([x, x], 1), jit_compile=True, autograph=False)
    with tf.GradientTape() as tape:
        tape.watch(on_gpu)
        result = compiled(on_gpu)
    return tape.gradient(result, on_gpu)


MISTAKES = {
    "int64 constants for the host": (_rows_of_tables, "GPU to host", 2),
    "a condition": (_condition, "GPU to host", 1),
    "the size of int32 values": (lambda _, x: tf.size(tf.cast(x, tf.int32)), "GPU to host", 1),
    "the size of a selection": (lambda _, x: tf.where(x > 0), "waits", 1),
    "distinct values": (lambda _, x: tf.unique(x[:, 0]).y, "waits", 1),
    "int32 indices": (lambda _, x: tf.gather(x, [1, 0]), "host to GPU", 1),
    "a result for the host": (lambda _, x: tf.cast(x, tf.int32), "GPU to host", 1),
    "the axis of a compiled function's gradient": (_compiled_gradient, "GPU to host", 1),
    "an op without a GPU kernel": (lambda _, x: tf.strings.as_string(x), "GPU to host", 1),
}


@pytest.mark.parametrize(("mistake", "kind", "count"), MISTAKES.values(), ids=MISTAKES)
def test_each_kind_of_copy_is_found(mistake, kind, count):
    table = tf.Variable([[1.0]])

    def body(package):
        with tf.device(GPU):
            return mistake(table, tf.bitcast(tf.reshape(package, [-1, 1, 4]), tf.float32))

    graph = tf.function(body).get_concrete_function(tf.TensorSpec([None], tf.uint8)).graph
    assert [text.partition(":")[0] for text in found(graph)] == [kind] * count
