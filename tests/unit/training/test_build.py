"""`build`: data, placement, dense model and embedding of a configuration."""

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

from dataset import DatasetError
from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.placement import PlacementError
from ops import loader
from tests.support.dataset.feature_specs import SIZES, SpecDataset
from training import build as build_module
from training.build import build
from training.config import Config
from training.runtime import environment
from training.runtime.errors import UserError
from training.runtime.process_group import SingleProcessGroup

VOCAB = (9, 4, 300)
SMALL = {"embedding_dim": 8, "bottom_mlp": "16,8", "top_mlp": "16,1", "mlp": "tensorflow"}


def config_of(**values):
    return Config().with_values(**{"global_batch_size": 6, **SMALL, **values})


def synthetic(**values):
    sizes = ",".join(map(str, VOCAB))
    return config_of(use_synthetic_dataset=True, vocab_sizes=sizes, **values)


def test_parts_have_the_shapes_of_the_configuration(seed):
    config = synthetic(seed=seed, interaction="cat", early_stop=7)
    parts = build(config, SingleProcessGroup())
    assert parts.dtype == tf.float32
    assert parts.data.vocab_sizes == list(VOCAB)
    assert parts.data.steps_per_epoch == 7
    kernels = [
        variable.shape for variable in parts.dense_model.variables if len(variable.shape) > 1
    ]
    assert kernels == [[13, 16], [16, 8], [4 * 8, 16], [16, 1]]
    (table,) = parts.embedding.fused_tables
    assert [shard.rows for shard in table.shards] == list(VOCAB)
    # Initial rows: U(-sqrt(1/rows), sqrt(1/rows)).
    for index, rows in enumerate(VOCAB):
        values = np.abs(table.read(index, 0, rows))
        assert values.shape == (rows, 8)
        assert 0 < values.max() <= np.sqrt(1 / rows)


def test_equal_seeds_give_equal_weights(seed):
    first, same, other = (
        [v.numpy() for v in build(synthetic(seed=s), SingleProcessGroup()).dense_model.variables]
        for s in (seed, seed, seed + 1)
    )
    for a, b in zip(first, same):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(first, other))


def test_dense_features_come_from_the_data(tmp_path, rng):
    SpecDataset(tmp_path, rng, places=("all/a", "all/b"))
    parts = build(config_of(data_dir=str(tmp_path)), SingleProcessGroup())
    assert parts.data.vocab_sizes == SIZES
    assert parts.dense_model.variables[0].shape == [10, 16]
    assert parts.data.steps_per_epoch == 90 // 6


@pytest.mark.parametrize(("amp_dtype", "dtype"), [("auto", "bfloat16"), ("float16", "float16")])
def test_amp_selects_the_dtype(amp_dtype, dtype):
    parts = build(synthetic(amp=True, amp_dtype=amp_dtype), SingleProcessGroup())
    assert parts.dtype.name == dtype


@pytest.mark.parametrize(
    ("batch", "ranks", "nearest"), [(241, 2, ("240", "242")), (3, 4, ("4",)), (10, 4, ("8", "12"))]
)
def test_batch_size_that_the_ranks_do_not_divide_is_refused(batch, ranks, nearest):
    cluster = types.SimpleNamespace(size=ranks, rank=0)
    with pytest.raises(UserError) as caught:
        build(synthetic(global_batch_size=batch), cluster)
    error = caught.value
    assert (error.flag, error.found, error.bound) == ("global_batch_size", batch, ranks)
    for number in nearest:
        assert number in str(error)


def test_batch_larger_than_the_data_is_refused(tmp_path, rng):
    SpecDataset(tmp_path, rng)
    with pytest.raises(UserError) as caught:
        build(config_of(data_dir=str(tmp_path), global_batch_size=91), SingleProcessGroup())
    assert caught.value.flag == "global_batch_size"
    assert (caught.value.found, caught.value.bound) == (91, 90)
    assert f"{tmp_path}/train" in str(caught.value)


def test_tables_larger_than_the_memory_are_refused():
    config = synthetic(memory_per_rank="1KiB", placement="table")
    with pytest.raises(PlacementError, match="table 2"):
        build(config, SingleProcessGroup())


@pytest.mark.parametrize("ranks, gpus", [(1, []), (2, []), (2, ["GPU:0"])])
def test_maps_have_what_tables_leave_of_the_memory(ranks, gpus, monkeypatch):
    monkeypatch.setattr(environment.memory, "available", lambda: 1000)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: gpus)
    share = 800 // ranks
    assert environment.host_bytes(ranks, 300) == (share if gpus else share - 300)
    assert environment.host_bytes(ranks, 900) == (share if gpus else 0)


def test_maps_that_do_not_fit_beside_the_tables_are_refused(tmp_path, rng, monkeypatch):
    SpecDataset(tmp_path, rng)
    config = config_of(
        data_dir=str(tmp_path), multi_hot=",".join("3" for _ in SIZES), memory_per_rank="1GiB"
    )
    monkeypatch.setattr(environment.memory, "available", lambda: 4000)
    with pytest.raises(DatasetError, match="maps of the multi-hot data: expected at most") as error:
        build(config, SingleProcessGroup())
    assert error.value.flag == "multi_hot"


def test_data_of_another_layout_is_refused(small_dataset):
    config = config_of(data_dir=str(small_dataset), use_splited_dataset=True)
    with pytest.raises(DatasetError, match="per_table"):
        build(config, SingleProcessGroup())


class Stop:
    """Ends `build` after the dense model."""

    @property
    def variables(self):
        raise StopIteration


@pytest.fixture
def gpu(monkeypatch):
    """Makes TensorFlow list a GPU."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    yield
    tf.config.experimental.enable_tensor_float_32_execution(True)


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_reaches_tensorflow_and_the_ops(tf32, gpu, monkeypatch):
    chosen = []
    monkeypatch.setattr(build_module, "DenseDLRM", lambda config: chosen.append(config) or Stop())
    config = synthetic(tf32=tf32, memory_per_rank="1GiB", embedding_backend="native")
    with pytest.raises(StopIteration):
        build(config, SingleProcessGroup())
    assert [found.tf32 for found in chosen] == [tf32]
    assert tf.config.experimental.tensor_float_32_execution_enabled() == tf32


def test_tf32_without_a_gpu_is_refused_if_given():
    config = synthetic()
    given = dataclasses.replace(config, given=frozenset({"tf32"}))
    with pytest.raises(UserError, match="--tf32=true: needs a GPU") as caught:
        build(given, SingleProcessGroup())
    assert caught.value.flag == "tf32"
    # CPUs never round, so this takes effect.
    without = build(given.with_values(tf32=False), SingleProcessGroup())
    assert without.dtype == tf.float32


def test_embedding_stream_needs_a_gpu():
    config = synthetic(embedding_stream=True)
    with pytest.raises(UserError, match="--embedding_stream=true: needs a GPU") as caught:
        build(config, SingleProcessGroup())
    assert caught.value.flag == "embedding_stream"


def test_embedding_stream_needs_the_fused_mlps(gpu):
    config = synthetic(
        embedding_stream=True, mlp="tensorflow", memory_per_rank="1GiB", embedding_backend="native"
    )
    with pytest.raises(UserError, match="fused MLPs") as caught:
        build(config, SingleProcessGroup())
    assert caught.value.flag == "embedding_stream"


def step_of(dense, x, vectors):
    with tf.GradientTape() as tape:
        logits = dense(x, vectors)
    return tape.gradient(logits, dense.trainable_variables)


def test_mlps_pass_tf32_to_the_op(seed):
    model = {"bottom_mlp": (16, 8), "top_mlp": (16, 4, 1), "seed": seed, "fused_mlp": True}
    if not loader.is_built("mlp"):
        pytest.skip("the library of the MLP ops is not built: it needs oneDNN")
    for tf32 in (True, False):
        dense = DenseDLRM(DLRMConfig(13, 3, tf32=tf32, **model))
        run = tf.function(lambda x, v, dense=dense: step_of(dense, x, v))
        graph = run.get_concrete_function(tf.zeros([4, 13]), tf.zeros([4, 3, 8])).graph
        ops = [op for op in graph.get_operations() if op.type.startswith("Dlrm>Mlp")]
        assert sorted(op.type for op in ops) == 2 * ["Dlrm>MlpBackward"] + 2 * ["Dlrm>MlpForward"]
        assert {op.get_attr("tf32") for op in ops} == {tf32}
