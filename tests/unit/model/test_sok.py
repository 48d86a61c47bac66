"""The SOK backend with stand-ins for SOK, against a float64 reference and the own backend.

SOK itself runs on GPUs alone. The stand-ins bind every call to SOK's recorded signatures; where
its source is at hand (DLRM_SOK_SOURCE=folder of an unpacked merlin-sok, or an install) the record
is checked against it.
"""

import importlib
import os
import pathlib
import subprocess
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
from model.embedding.placement import Assignment, Placement
from model.embedding.sharded import ShardedEmbedding
from model.embedding.sok import SokEmbedding
from model.embedding.sok2 import start_sok2
from ops.embedding import create_table, embedding_initialize
from ops.nvtx import ranges
from tests.support.model import fake_sok
from tests.support.model.sok_signatures import TABLE, arguments_in_source
from tests.support.row_optimizers import ReferenceRows
from tests.support.thread_ranks import ThreadRanks
from training import phases
from training.optimizers import SGD
from training.precision import LossScale
from training.runtime.process_group import SingleProcessGroup
from training.step import StepParts, TrainStep

VOCAB = (13, 1, 7, 3, 50)
DIMENSION = 8
LOCAL_BATCH = 6
SEED = 77


def placement_of(kind, size):
    table = [Assignment("table", (t % size,)) for t in range(5)]
    row = [Assignment("row")] * 5
    mixed = [*row[:2], *(Assignment("table", (k % size,)) for k in range(3))]
    mixed[1], mixed[4] = mixed[4], mixed[1]
    return Placement(VOCAB, DIMENSION, size, tuple({"table": table, "row": row}.get(kind, mixed)))


def fake(api, cluster):
    cluster.local_size = cluster.size  # all ranks on one host
    return fake_sok.sok2(cluster) if api == 2 else fake_sok.sok1(cluster)


def initial_tables():
    tables = []
    for t, rows in enumerate(VOCAB):
        table = create_table(rows, DIMENSION)
        embedding_initialize(table, 0, rows, t, SEED, rows**-0.5)
        tables.append(table.numpy().astype(np.float64))
    return tables


def read_all(embedding, state=None):
    """Returns {(table, id): row, or its state} of what one rank holds."""
    rows = {}
    for shard in embedding.shards:
        ids = shard.row_offset + shard.row_stride * np.arange(shard.rows)
        for i, row in zip(ids, embedding.read_rows(shard.table, ids, state)):
            rows[shard.table, int(i)] = row
    return rows


@pytest.mark.parametrize(("api", "kind"), [(2, "row"), (2, "mixed"), (1, "row")])
def test_initial_rows_are_the_own_backends_bit_for_bit(monkeypatch, api, kind):
    monkeypatch.setattr(sok, "CHUNK_BYTES", 4 * DIMENSION * 5)  # 5 rows at a time

    def body(cluster):
        return read_all(
            SokEmbedding(
                fake(api, cluster),
                api,
                placement_of(kind, 3),
                cluster,
                LOCAL_BATCH,
                EmbeddingOptions(seed=SEED),
            )
        )

    tables = initial_tables()
    held = {}
    for rows in ThreadRanks(3).run(body):
        held.update(rows)
    assert sorted(held) == [(t, i) for t, rows in enumerate(VOCAB) for i in range(rows)]
    for (t, i), row in held.items():
        np.testing.assert_array_equal(row, tables[t][i])
    assert np.unique(np.concatenate(list(held.values()))).size > 0.9 * sum(VOCAB) * DIMENSION


CASES = [
    (api, kind, size, compress)
    for api, kinds in ((2, ("row", "table", "mixed")), (1, ("row",)))
    for kind in kinds
    for size in (1, 2, 3)
    for compress in (False, True)
    if not (compress and kind != "row")
]


@pytest.mark.parametrize(
    ("api", "kind", "size", "compress", "optimizer"),
    [
        (*case, optimizer)
        for case in CASES
        for optimizer in OPTIMIZERS
        if optimizer in ("sgd", "adagrad") or case[2] == 2
    ],
)
def test_training_equals_a_float64_reference(api, kind, size, compress, optimizer):
    generator = np.random.default_rng()
    placement, steps, rate = placement_of(kind, size), 3, 0.3
    average = "sum" if optimizer == "sgd" and compress else "mean"
    options = {"l1": 0.05, "beta": 0.5} if optimizer == "ftrl" else {}
    shape = (steps, size, LOCAL_BATCH, len(VOCAB))
    # A power law: many repetitions within and across ranks.
    ids = ((generator.zipf(1.3, shape) - 1) % np.array(VOCAB)).astype(np.int32)
    gradients = generator.normal(size=(*shape, DIMENSION)).astype(np.float32)

    def body(cluster):
        embedding = SokEmbedding(
            fake(api, cluster),
            api,
            placement,
            cluster,
            LOCAL_BATCH,
            EmbeddingOptions(
                seed=SEED,
                gradient=average,
                compress=compress,
                optimizer=OPTIMIZERS[optimizer].with_options(options),
            ),
        )
        seen = []
        for step in range(steps):
            plan = embedding.plan_ids(tf.constant(ids[step, cluster.rank]))
            local = embedding.lookup_local(plan)
            seen.append(embedding.exchange_vectors(plan, local).numpy())
            update(embedding, plan, tf.constant(gradients[step, cluster.rank]), rate, local)
        # Adagrad's rows do not show the gradients' scale, its state does.
        states = [read_all(embedding, state.name) for state in OPTIMIZERS[optimizer].states]
        return seen, read_all(embedding), states

    results = ThreadRanks(size).run(body)
    tables = [ReferenceRows(optimizer, table, options=options) for table in initial_tables()]
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
    ("api", "kind", "compress"),
    [(2, "row", False), (2, "row", True), (2, "table", False), (1, "row", True)],
)
@pytest.mark.parametrize("heard", [False, True])
def test_one_traced_step_equals_the_own_backends(monkeypatch, api, kind, compress, heard):
    monkeypatch.setattr(ranges, "listening", lambda: heard)
    generator = np.random.default_rng()
    cluster, batch = SingleProcessGroup(), max(VOCAB)
    placement = placement_of(kind, 1)
    own = ShardedEmbedding(placement_of("table", 1), cluster, batch, EmbeddingOptions(seed=SEED))
    theirs = SokEmbedding(
        fake(api, cluster),
        api,
        placement,
        cluster,
        batch,
        EmbeddingOptions(seed=SEED, compress=compress),
    )
    losses = []
    batches = [
        {
            "dense": tf.constant(generator.normal(size=(batch, 13)), tf.float32),
            "categorical": tf.constant(
                (generator.zipf(1.3, (batch, 5)) - 1) % np.array(VOCAB), tf.int32
            ),
            "label": tf.constant(generator.integers(0, 2, (batch, 1)), tf.float32),
        }
        for _ in range(6)
    ]
    for embedding in (own, theirs):
        dense = DenseDLRM(DLRMConfig(13, 5, (16, DIMENSION), (16, 1), seed=SEED))
        step = TrainStep(
            StepParts(dense, embedding, SGD(dense.trainable_variables), cluster, LossScale(1.0))
        )
        losses.append([float(step(batch_, 0.5)[0]) for batch_ in batches])
        assert step.traces() == 1
    operations = step._function.get_concrete_function().graph.get_operations()
    labels = [op.get_attr("label") for op in operations if op.type == "Dlrm>NvtxRangeStart"]
    dense = [phases.DENSE, phases.AVERAGE, phases.UPDATE_DENSE]
    # What SOK exchanges is part of its lookup.
    expected = [phases.EXCHANGE_IDS, phases.LOOKUP, *dense]
    expected += [phases.EXCHANGE_GRADIENTS, phases.UPDATE_ROWS]
    assert [label.decode() for label in labels] == (expected if heard else [])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[0][0] != losses[0][1]
    # Every row of every table.
    ids = tf.constant(np.arange(batch)[:, None] % np.array(VOCAB), tf.int32)
    rows = [lookup(embedding, embedding.plan_ids(ids)).numpy() for embedding in (own, theirs)]
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-4, atol=1e-6)
    initial = np.stack([table[ids.numpy()[:, t]] for t, table in enumerate(initial_tables())], 1)
    assert np.abs(rows[0] - initial).max() > 1e-3


def test_half_precision_travels_with_sok_1_and_is_cast_with_sok_2():
    cluster = SingleProcessGroup()
    ids = tf.constant(
        np.arange(LOCAL_BATCH * 5).reshape(LOCAL_BATCH, 5) % np.array(VOCAB), tf.int32
    )
    tables = initial_tables()
    expected = np.stack([tables[t][ids.numpy()[:, t]] for t in range(5)], axis=1)
    for api, dtype in ((1, tf.float16), (1, tf.bfloat16), (2, tf.float16), (2, tf.bfloat16)):
        embedding = SokEmbedding(
            fake(api, cluster),
            api,
            placement_of("row", 1),
            cluster,
            LOCAL_BATCH,
            EmbeddingOptions(seed=SEED, exchange_dtype=dtype),
        )
        plan = embedding.plan_ids(ids)
        local = embedding.lookup_local(plan)
        vectors = embedding.exchange_vectors(plan, local)
        assert vectors.dtype == dtype
        rounding = {tf.float16: 2**-11, tf.bfloat16: 2**-8}[dtype]
        np.testing.assert_allclose(tf.cast(vectors, tf.float32), expected, rtol=rounding)
        update(embedding, plan, tf.ones_like(vectors), 0.5, local)
        used = ids.numpy()[0, 4]
        changed = embedding.read_rows(4, [used])[0]
        times = np.sum(ids.numpy()[:, 4] == used)
        np.testing.assert_allclose(changed, tables[4][used] - 0.5 * times, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("api", [1, 2])
def test_rows_and_accumulators_are_read_and_written(api):
    def body(cluster):
        embedding = SokEmbedding(
            fake(api, cluster),
            api,
            placement_of("row", 2),
            cluster,
            LOCAL_BATCH,
            EmbeddingOptions(seed=SEED, optimizer="adagrad"),
        )
        ids = np.arange(cluster.rank, 50, 2)[::-3]
        before = embedding.read_rows(4, np.arange(cluster.rank, 50, 2))
        values = np.random.default_rng().normal(size=(len(ids), DIMENSION)).astype(np.float32)
        for state in (None, "accumulator"):
            embedding.write_rows(4, ids, values, state)
            np.testing.assert_array_equal(embedding.read_rows(4, ids, state), values)
            values = np.square(values)
        untouched = np.setdiff1d(np.arange(cluster.rank, 50, 2), ids)
        np.testing.assert_array_equal(
            embedding.read_rows(4, untouched), before[(untouched - cluster.rank) // 2]
        )
        with pytest.raises(IndexError, match=f"table 4: .* on rank {cluster.rank}"):
            embedding.read_rows(4, [1 - cluster.rank])
        with pytest.raises(IndexError):
            embedding.read_rows(4, [50 + cluster.rank])
        with pytest.raises(IndexError, match="table 5: there are 5 tables"):
            embedding.read_rows(5, [0])
        with pytest.raises(KeyError, match="momentum"):
            embedding.read_rows(4, ids, "momentum")

    ThreadRanks(2).run(body)


@pytest.mark.parametrize("bad", [-1, 3, 2**31 - 1])
def test_an_id_outside_its_table_is_named(bad):
    ids = np.zeros((LOCAL_BATCH, len(VOCAB)), np.int32)
    ids[2, 3] = bad
    cluster = SingleProcessGroup()
    embedding = SokEmbedding(
        fake(2, cluster),
        2,
        placement_of("row", 1),
        cluster,
        LOCAL_BATCH,
        EmbeddingOptions(seed=SEED),
    )
    function = tf.function(lambda categorical: lookup(embedding, embedding.plan_ids(categorical)))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        function(tf.constant(ids))
    assert f"table 3, sample 2: id {bad} is outside [0, 3)" in str(caught.value)


class Ranks:
    """As much of a cluster as the checks look at."""

    def __init__(self, size, local_size):
        self.rank, self.size, self.local_size = 0, size, local_size


@pytest.mark.parametrize(
    ("api", "assignments", "size", "local_size", "options", "message"),
    [
        (2, [("column", (0, 1))], 2, 2, {}, "table 0 is placed 'column'"),
        (2, [("replicated", ())], 2, 2, {}, "table 0 is placed 'replicated'"),
        (1, [("table", (1,))], 2, 2, {}, "SOK 1.x deals the rows"),
        (2, [("table", (1,))], 1 + 1, 2, {}, "rank 0 would hold no whole table"),
        (2, [("table", (0,))], 1, 1, {"compress": True}, "--compress has no effect"),
        (1, [("row", ())], 16, 8, {}, "one host only"),
        (2, [("row", ())], 2, 2, {"optimizer": "adam"}, "optimizer 'adam': expected one of"),
    ],
)
def test_what_cannot_take_effect_is_refused(api, assignments, size, local_size, options, message):
    placement = Placement((9,), 8, size, tuple(Assignment(*a) for a in assignments))
    with pytest.raises(BackendError) as caught:
        SokEmbedding(
            None, api, placement, Ranks(size, local_size), 4, EmbeddingOptions(seed=1, **options)
        )
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_sok2_lookups_run_without_find_loader(monkeypatch):
    """Python 3.12 removed importlib.find_loader, which SOK 2's lookup module calls."""
    monkeypatch.delattr(importlib, "find_loader", raising=False)
    module, cluster = types.ModuleType("sparse_operation_kit"), SingleProcessGroup()
    module.lookup = types.ModuleType("sparse_operation_kit.lookup")
    exec("import importlib", module.lookup.__dict__)
    module.init = lambda comm_tool, use_legacy_optimizer: None
    monkeypatch.setitem(sys.modules, "sparse_operation_kit.lookup", module.lookup)
    horovod = types.SimpleNamespace(is_initialized=lambda: True, size=lambda: 1)
    monkeypatch.setitem(sys.modules, "horovod", types.ModuleType("horovod"))
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", horovod)
    start_sok2(module, cluster)
    assert module.lookup.importlib.find_loader("tensorflow.python.ops.array_ops")
    assert not module.lookup.importlib.find_loader("tensorflow.python.ops.kv_variable_ops")
    assert not hasattr(importlib, "find_loader")


def source():
    """Returns the folder of SOK's source or install, and its API; (None, None) without one."""
    folder = os.environ.get("DLRM_SOK_SOURCE", pathlib.Path(tf.__file__).parents[1])
    package = pathlib.Path(folder, "sparse_operation_kit")
    if not package.is_dir():
        return None, None
    return folder, "2" if (package / "lookup.py").is_file() else "1"


@pytest.mark.skipif(source()[0] is None, reason="DLRM_SOK_SOURCE names no source of SOK")
def test_the_recorded_signatures_are_those_of_the_source():
    folder, api = source()
    for name, record in TABLE[api]["functions"].items():
        found = arguments_in_source(folder, record["file"], record["definition"])
        assert found == record["arguments"], f"{name} in {record['file']}"


@pytest.mark.slow
@pytest.mark.launches
@pytest.mark.skipif(
    "DLRM_SOK_SOURCE" not in os.environ or source()[1] != "2",
    reason="DLRM_SOK_SOURCE names no source of SOK 2",
)
@pytest.mark.parametrize("size", [1, 2])
def test_soks_own_python_trains_under_horovod(size):
    """SOK 2's source as it is, over Horovod; TensorFlow's ops in place of its CUDA ops."""
    python = [sys.executable, "-m", "tests.support.model.sok_source_ranks"]
    launcher = pathlib.Path(sys.executable).with_name("horovodrun")
    command = python if size == 1 else [launcher, "--gloo", "-np", str(size), *python]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count(f"on {size} ranks: all equal") == size
