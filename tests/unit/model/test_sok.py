"""The SOK backend on a stand-in for SOK, against a float64 reference and the native backend.

SOK itself needs a GPU. The stand-in binds every call to SOK's recorded signatures; if its source is
available (DLRM_SOK_SOURCE=folder of an unpacked merlin-sok, or an installation), the record is
checked against it.
"""

import importlib
import os
import pathlib
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding import sok
from model.embedding.backend import BackendError
from model.embedding.interface import EmbeddingOptions, lookup, update
from model.embedding.optimizers import OPTIMIZERS
from model.embedding.placement import Assignment, Placement, plan
from model.embedding.sharded import ShardedEmbedding
from model.embedding.sok import SokEmbedding
from model.embedding.sok_tables import start
from ops.nvtx import ranges
from tests.support.model import fake_sok, placements
from tests.support.model.sok_rows import (
    DIMENSION,
    LOCAL_BATCH,
    VOCAB,
    held_rows,
    initial_tables,
    power_law_ids,
)
from tests.support.model.sok_signatures import TABLE, arguments_in_source
from tests.support.row_optimizers import OPTIONS, ReferenceRows, exact_gradients
from tests.support.thread_ranks import ThreadRanks
from training import phases
from training.optimizers import SGD
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup
from training.step import StepParts, TrainStep


def sok_embedding(kind, cluster, batch=LOCAL_BATCH, **options):
    placement = placements.placement_of(kind, cluster.size, VOCAB, DIMENSION)
    return SokEmbedding(
        fake_sok.module(cluster), placement, cluster, batch, EmbeddingOptions(**options)
    )


@pytest.mark.parametrize("kind", ["row", "mixed"])
def test_initial_rows_equal_the_native_ops_bit_for_bit(monkeypatch, kind, seed):
    monkeypatch.setattr(sok, "CHUNK_BYTES", 4 * DIMENSION * 5)  # 5 rows at a time

    def body(cluster):
        return held_rows(sok_embedding(kind, cluster, seed=seed))

    held = {}
    for rows in ThreadRanks(3).run(body):
        held.update(rows)
    assert sorted(held) == [(t, i) for t, rows in enumerate(VOCAB) for i in range(rows)]
    tables = initial_tables(seed)
    for (t, i), row in held.items():
        np.testing.assert_array_equal(row, tables[t][i])
    assert np.unique(np.concatenate(list(held.values()))).size > 0.9 * sum(VOCAB) * DIMENSION


@pytest.mark.parametrize(
    ("kind", "size", "compress", "optimizer"),
    [
        ("row", 1, True, "adagrad"),
        *(("row", 2, number % 2 == 0, name) for number, name in enumerate(OPTIMIZERS)),
        ("row", 3, False, "adagrad"),
        ("row", 3, True, "sgd"),
        ("table", 1, False, "sgd"),
        ("table", 2, False, "ftrl"),
        ("table", 3, False, "adagrad"),
        ("mixed", 2, False, "rowwise_adagrad"),
        ("mixed", 3, False, "sgd"),
    ],
)
def test_training_matches_a_float64_reference(kind, size, compress, optimizer, seed, rng):
    steps, rate = 3, 0.3
    average = "sum" if optimizer == "sgd" and compress else "mean"
    options = OPTIONS.get(optimizer, {})
    ids = power_law_ids(rng, steps, size, LOCAL_BATCH)
    gradients = exact_gradients(rng, (*ids.shape, DIMENSION))

    def body(cluster):
        embedding = sok_embedding(
            kind, cluster, seed=seed, gradient=average, compress=compress,
            optimizer=OPTIMIZERS[optimizer].with_options(options),
        )  # fmt: skip
        vectors = []
        for step in range(steps):
            plan = embedding.plan_ids(tf.constant(ids[step, cluster.rank]))
            local = embedding.lookup_local(plan)
            vectors.append(embedding.exchange_vectors(plan, local).numpy())
            update(embedding, plan, tf.constant(gradients[step, cluster.rank]), rate, local)
        # Adagrad's rows do not show the gradients' scale; its state does.
        states = [held_rows(embedding, state.name) for state in OPTIMIZERS[optimizer].states]
        return vectors, held_rows(embedding), states

    results = ThreadRanks(size).run(body)
    tables = [ReferenceRows(optimizer, table, options=options) for table in initial_tables(seed)]
    scale = 1 / size if average == "mean" else 1.0
    for step in range(steps):
        for rank in range(size):
            for t in range(len(VOCAB)):
                expected = tables[t].rows[ids[step, rank, :, t]]
                np.testing.assert_allclose(
                    results[rank][0][step][:, t], expected, rtol=2e-5, atol=2e-6
                )
        for t, table in enumerate(tables):
            table.scatter(ids[step, :, :, t], gradients[step, :, :, t], rate, scale)
    assert sum(len(rows) for _, rows, _ in results) == sum(VOCAB)
    for rank, (_, rows, states) in enumerate(results):
        for number, values in enumerate(states):
            assert values.keys() == rows.keys()
            for (t, i), state in values.items():
                expected = tables[t].states[number][i]
                np.testing.assert_allclose(state, expected, rtol=2e-5, atol=2e-6)
        for (t, i), row in rows.items():
            np.testing.assert_allclose(row, tables[t].rows[i], rtol=2e-5, atol=2e-6)
            if kind == "row":
                assert i % size == rank


@pytest.mark.parametrize(
    ("kind", "compress", "listening"),
    [("row", True, True), ("table", False, False)],
)
def test_traced_train_step_matches_the_native_backend(
    monkeypatch, kind, compress, listening, seed, rng
):
    monkeypatch.setattr(ranges, "is_tool_attached", lambda: listening)
    cluster, batch = SingleProcessGroup(), max(VOCAB)
    native = ShardedEmbedding(
        plan(VOCAB, DIMENSION, 1), cluster, batch, EmbeddingOptions(seed=seed)
    )
    embeddings = native, sok_embedding(kind, cluster, batch, seed=seed, compress=compress)
    batches = [
        {
            "dense": tf.constant(rng.normal(size=(batch, 13)), tf.float32),
            "categorical": tf.constant(power_law_ids(rng, batch)),
            "label": tf.constant(rng.integers(0, 2, (batch, 1)), tf.float32),
        }
        for _ in range(6)
    ]
    models = [DenseDLRM(DLRMConfig(13, 5, (16, DIMENSION), (16, 1), seed=seed)) for _ in range(2)]
    steps = [
        TrainStep(StepParts(dense, embedding, SGD(dense.variables), cluster, LossScale(1.0)))
        for dense, embedding in zip(models, embeddings)
    ]
    every_id = tf.constant(np.arange(batch)[:, None] % np.array(VOCAB), tf.int32)
    losses = []
    for batch_ in batches:
        losses.append([float(step(batch_, 0.5)[0]) for step in steps])
        rows = [lookup(embedding, embedding.plan_ids(every_id)).numpy() for embedding in embeddings]
        np.testing.assert_allclose(rows[1], rows[0], rtol=1e-4, atol=1e-6)
        # Each step starts from equal values: a rounding error may switch a ReLU in the next.
        for ours, theirs in zip(*(dense.variables for dense in models)):
            theirs.assign(ours)
        for t, size in enumerate(VOCAB):
            embeddings[1].write_rows(t, np.arange(size), rows[0][:size, t])
    assert all(step.traces() == 1 for step in steps)
    operations = steps[1]._function.get_concrete_function().graph.get_operations()
    labels = [op.get_attr("label") for op in operations if op.type == "Dlrm>NvtxRangeStart"]
    # SOK exchanges vectors in its lookup.
    expected = [
        phases.EXCHANGE_IDS, phases.LOOKUP, phases.DENSE, phases.EXCHANGE_GRADIENTS,
        phases.AVERAGE, phases.UPDATE_DENSE, phases.UPDATE_ROWS,
    ]  # fmt: skip
    assert [label.decode() for label in labels] == (expected if listening else [])
    native_losses, losses = np.transpose(losses)
    np.testing.assert_allclose(losses, native_losses, rtol=1e-5)
    assert losses[0] != losses[1]
    initial = [table[every_id.numpy()[:, t]] for t, table in enumerate(initial_tables(seed))]
    assert np.abs(rows[0] - np.stack(initial, axis=1)).max() > 1e-3


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(tf.float16, 2**-11), (tf.bfloat16, 2**-8)], ids=["float16", "bfloat16"]
)
def test_vectors_are_cast_to_the_exchange_dtype(dtype, rounding, seed):
    ids = np.arange(LOCAL_BATCH * 5, dtype=np.int32).reshape(LOCAL_BATCH, 5) % np.array(VOCAB)
    tables = initial_tables(seed)
    embedding = sok_embedding("row", SingleProcessGroup(), seed=seed, exchange_dtype=dtype)
    plan = embedding.plan_ids(tf.constant(ids, tf.int32))
    local = embedding.lookup_local(plan)
    vectors = embedding.exchange_vectors(plan, local)
    assert vectors.dtype == dtype
    expected = np.stack([tables[t][ids[:, t]] for t in range(5)], axis=1)
    # Below 2^-14 float16 is subnormal, with steps of 2^-24.
    np.testing.assert_allclose(tf.cast(vectors, tf.float32), expected, rtol=rounding, atol=2**-25)
    update(embedding, plan, tf.ones_like(vectors), 0.5, local)
    used = ids[0, 4]
    times = np.sum(ids[:, 4] == used)
    np.testing.assert_allclose(
        embedding.read_rows(4, [used])[0], tables[4][used] - 0.5 * times, rtol=1e-5, atol=1e-6
    )


def test_rows_and_states_are_read_and_written_by_id(seed, rng):
    new = rng.normal(size=(2, 25, DIMENSION)).astype(np.float32)

    def body(cluster):
        embedding = sok_embedding("row", cluster, seed=seed, optimizer="adagrad")
        own = np.arange(cluster.rank, 50, 2)
        ids = own[::-3]
        before = embedding.read_rows(4, own)
        values = new[cluster.rank, : len(ids)]
        for state in (None, "accumulator"):
            embedding.write_rows(4, ids, values, state)
            np.testing.assert_array_equal(embedding.read_rows(4, ids, state), values)
            values = np.square(values)
        untouched = np.setdiff1d(own, ids)
        np.testing.assert_array_equal(
            embedding.read_rows(4, untouched), before[(untouched - cluster.rank) // 2]
        )
        for table, id_ in ((4, 1 - cluster.rank), (4, 50 + cluster.rank), (5, 0)):
            with pytest.raises(IndexError, match=f"table {table}"):
                embedding.read_rows(table, [id_])
        with pytest.raises(KeyError, match="momentum"):
            embedding.read_rows(4, ids, "momentum")

    ThreadRanks(2).run(body)


@pytest.mark.parametrize("bad", [-1, 3, 2**31 - 1])
def test_id_outside_its_table_is_an_error_with_table_sample_id_and_bound(bad, seed):
    ids = np.zeros((LOCAL_BATCH, len(VOCAB)), np.int32)
    ids[2, 3] = bad
    embedding = sok_embedding("row", SingleProcessGroup(), seed=seed)
    function = tf.function(lambda categorical: lookup(embedding, embedding.plan_ids(categorical)))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        function(tf.constant(ids))
    for value in ("table 3", "sample 2", f"id {bad} ", "3)"):
        assert value in str(caught.value)


@pytest.mark.parametrize("size", [2, 17])
def test_for_batch_looks_up_the_same_rows(size, seed, rng):
    embedding = sok_embedding("mixed", SingleProcessGroup(), seed=seed)
    view = embedding.for_batch(size)
    ids = power_law_ids(rng, size)
    vectors = lookup(view, view.plan_ids(tf.constant(ids))).numpy()
    for table in range(len(VOCAB)):
        np.testing.assert_array_equal(vectors[:, table], embedding.read_rows(table, ids[:, table]))


@pytest.mark.parametrize(
    ("assignment", "size", "options", "fields"),
    [
        (("column", (0, 1)), 2, {}, {"flag": "placement", "table": 0}),
        (("replicated", ()), 2, {}, {"flag": "placement", "table": 0}),
        (("table", (1,)), 2, {}, {"flag": "placement"}),
        (("table", (0,)), 1, {"compress": True}, {"flag": "dedup_ids", "table": 0}),
    ],
)
def test_unsupported_options_are_refused(assignment, size, options, fields):
    placement = Placement((9,), 8, size, (Assignment(*assignment),))
    cluster = types.SimpleNamespace(rank=0, size=size)
    with pytest.raises(BackendError) as caught:
        SokEmbedding(None, placement, cluster, 4, EmbeddingOptions(seed=1, **options))
    assert fields.items() <= caught.value.fields.items()


def test_start_requires_horovods_ranks(monkeypatch):
    module = fake_sok.module(SingleProcessGroup())
    with pytest.raises(BackendError) as caught:
        start(module, types.SimpleNamespace(rank=0, size=5))
    assert caught.value.found == 1
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", None)
    with pytest.raises(BackendError, match="Horovod"):
        start(module, SingleProcessGroup())


def test_start_accepts_an_initialised_sok():
    def raising(message):
        def init(**_):
            raise RuntimeError(message)

        return types.SimpleNamespace(init=init)

    start(raising("Communication tool cannot be set more than once"), SingleProcessGroup())
    with pytest.raises(RuntimeError, match="something else"):
        start(raising("something else"), SingleProcessGroup())


def test_start_restores_find_loader_for_soks_lookup_module(monkeypatch):
    """Python 3.12 removed importlib.find_loader, which SOK's lookup module calls."""
    monkeypatch.delattr(importlib, "find_loader", raising=False)
    module, cluster = types.ModuleType("sparse_operation_kit"), SingleProcessGroup()
    module.lookup = types.ModuleType("sparse_operation_kit.lookup")
    exec("import importlib", module.lookup.__dict__)
    module.init = lambda comm_tool, use_legacy_optimizer: None
    monkeypatch.setitem(sys.modules, "sparse_operation_kit.lookup", module.lookup)
    horovod = types.SimpleNamespace(is_initialized=lambda: True, size=lambda: 1)
    monkeypatch.setitem(sys.modules, "horovod", types.ModuleType("horovod"))
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", horovod)
    start(module, cluster)
    assert module.lookup.importlib.find_loader("tensorflow.python.ops.array_ops")
    assert not module.lookup.importlib.find_loader("tensorflow.python.ops.kv_variable_ops")
    assert not hasattr(importlib, "find_loader")


SOURCE = pathlib.Path(os.environ.get("DLRM_SOK_SOURCE", pathlib.Path(tf.__file__).parents[1]))


@pytest.mark.skipif(
    not (SOURCE / "sparse_operation_kit").is_dir(), reason="DLRM_SOK_SOURCE has no source of SOK"
)
@pytest.mark.parametrize("name", TABLE["functions"])
def test_recorded_signature_matches_the_source(name):
    record = TABLE["functions"][name]
    found = arguments_in_source(SOURCE, record["file"], record["definition"])
    assert found == record["arguments"]
