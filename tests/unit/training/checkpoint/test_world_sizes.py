"""Written by any number of ranks, with any placement, read by any other."""

import errno
import os

import numpy as np
import pytest
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.interface import EmbeddingOptions
from model.embedding.optimizers import OPTIMIZERS
from model.embedding.placement import Assignment, Placement
from model.embedding.sharded import ShardedEmbedding
from model.embedding.sok import SokEmbedding
from tests.support.model import fake_sok
from tests.support.thread_ranks import ThreadRanks
from training.checkpoint import compatibility, files, folder, manifest, restore
from training.checkpoint.array_files import ArrayFiles
from training.checkpoint.reader import Reader
from training.checkpoint.saver import Saver
from training.checkpoint.state import State
from training.optimizers import Adam
from training.precision import LossScale
from training.runtime.errors import UserError

VOCAB, DIMENSION = (50, 1, 7, 3, 40), 8
FLAGS = {
    "embedding_dim": DIMENSION, "global_batch_size": 24, "lr": 1.0, "optimizer": "sgd",
    "embedding_optimizer": "sgd", "loss_scale": "dynamic",
}  # fmt: skip
DATA = {"train_samples": 1000}


class Silent:
    def __init__(self):
        self.events = []

    def emit(self, event, **fields):
        self.events.append((event, fields))


def placement_of(kind, size):
    table = [Assignment("table", (t % size,)) for t in range(len(VOCAB))]
    return Placement(VOCAB, DIMENSION, size, tuple({
        "table": table,
        "row": [Assignment("row")] * len(VOCAB),
        "column": [Assignment("column", (0, size - 1)), *table[1:4], Assignment("row")],
        "replicated": [table[0], Assignment("replicated"), Assignment("row"),
                       Assignment("replicated"), table[4]],
    }[kind]))  # fmt: skip


def job(cluster, kind, optimizer, seed):
    """Returns the `State` of a job; kind "sok-row" or "sok-table" takes SOK's tables."""
    dense_model = DenseDLRM(DLRMConfig(5, len(VOCAB), (16, DIMENSION), (16, 1), seed=seed))
    adam = Adam(dense_model.trainable_variables)
    batch = 24 // cluster.size
    backend, _, kind = kind.rpartition("-")
    placement = placement_of(kind, cluster.size)
    if backend:
        embedding = SokEmbedding(
            fake_sok.module(cluster),
            placement,
            cluster,
            batch,
            EmbeddingOptions(seed=seed, optimizer=optimizer),
        )
    else:
        embedding = ShardedEmbedding(
            placement, cluster, batch, EmbeddingOptions(seed=seed, optimizer=optimizer)
        )
    return State(dense_model, adam, LossScale(8.0, dynamic=True), embedding, cluster)


def fill(state, seed):
    """Overwrites everything with values that depend on seed, variable and id alone."""
    for group, variables in state.named.items():
        for number, variable in enumerate(variables.values()):
            generator = np.random.default_rng([seed, len(group), number])
            values = generator.integers(-9, 9, variable.shape)
            variable.assign(tf.cast(values, variable.dtype))
    for stored in state.tables.all:
        shard = stored.shard
        generator = np.random.default_rng([seed, shard.table, len(stored.state)])
        whole = generator.normal(size=(VOCAB[shard.table], DIMENSION)).astype(np.float32)
        ids = shard.row_offset + shard.row_stride * np.arange(shard.rows)
        rows = whole[ids, shard.column_start : shard.column_end]
        stored.write(0, rows if len(stored.shape) == 2 else rows[:, 0])


def everything(state):
    """Returns {name: values} of a rank, tables as (ids, first column, values)."""
    found = {}
    for group, variables in state.named.items():
        for name, variable in variables.items():
            found[f"{group}.{name}"] = variable.numpy()
    for stored in state.tables.all:
        shard = stored.shard
        key = (shard.table, stored.state, shard.row_offset, shard.column_start)
        found[key] = stored.read(0, stored.shape[0])
    return found


def save(cluster, path, kind, optimizer, step=7, keep=9):
    state = job(cluster, kind, optimizer, seed=1)
    fill(state, 42)
    journal = Silent()
    saver = Saver(
        path, cluster, state, {"flags": FLAGS, "data": DATA, "versions": {}},
        keep=keep, interval=None, patience=20, journal=journal,
    )  # fmt: skip
    saver.begin(step, 0, [])
    saver.finish()
    return state, journal


def load(cluster, path, kind, optimizer):
    reader = restore.latest_complete(path, cluster, pytest.fail)
    state = job(cluster, kind, optimizer, seed=2)
    restore.load(reader, state, training=True)
    expected = job(cluster, kind, optimizer, seed=3)
    fill(expected, 42)
    found, expected = everything(state), everything(expected)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=str(name))
    return len(found)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
@pytest.mark.parametrize("kind", ["table", "row", "column", "replicated"])
@pytest.mark.parametrize(("written", "read"), [(4, 1), (4, 2), (4, 3), (1, 4), (2, 3)])
def test_any_ranks_write_and_any_read(tmp_path, kind, optimizer, written, read):
    if kind == "column":
        written, read = max(2, written), max(2, read)
    ThreadRanks(written).run(lambda cluster: save(cluster, tmp_path, kind, optimizer) and None)
    other = {"table": "row", "row": "replicated", "column": "table", "replicated": "column"}
    for kind_read in {kind, other[kind] if read > 1 else "row"}:
        counts = ThreadRanks(read).run(lambda c, k=kind_read: load(c, tmp_path, k, optimizer))
        assert min(counts) > 10


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("kind", "written", "kind_read", "read"),
    [("sok-row", 3, "row", 2), ("sok-table", 2, "row", 3), ("table", 3, "sok-row", 2),
     ("sok-row", 1, "sok-table", 2)],
)  # fmt: skip
def test_either_backend_reads_what_the_other_wrote(
    tmp_path, optimizer, kind, written, kind_read, read
):
    ThreadRanks(written).run(lambda cluster: save(cluster, tmp_path, kind, optimizer) and None)
    counts = ThreadRanks(read).run(lambda cluster: load(cluster, tmp_path, kind_read, optimizer))
    assert min(counts) > 10


def test_row_wise_sums_are_one_number_a_row(tmp_path):
    ThreadRanks(2).run(lambda cluster: save(cluster, tmp_path, "row", "rowwise_adagrad") and None)
    ThreadRanks(3).run(lambda cluster: load(cluster, tmp_path, "table", "rowwise_adagrad"))
    ((_, path),) = folder.checkpoints(tmp_path)
    sums = np.load(path / "table_00.accumulator.rank_1.npy", allow_pickle=False)
    assert sums.shape == (25,)


def test_plain_files_with_the_sums_that_coreutils_check(tmp_path):
    import subprocess

    states = ThreadRanks(2).run(lambda cluster: save(cluster, tmp_path, "row", "sgd")[0])
    ((step, path),) = folder.checkpoints(tmp_path)
    assert step == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000007"]
    checked = subprocess.run(
        ["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=path, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    listed = {line.split("  ")[1] for line in (path / "SHA256SUMS").read_text().splitlines()}
    assert listed == {p.name for p in path.iterdir()} - {"SHA256SUMS"}
    rows = np.load(path / "table_00.rank_1.npy", allow_pickle=False)
    stored = next(s for s in states[1].tables.all if s.shard.table == 0)
    np.testing.assert_array_equal(rows, stored.read(0, 25))


def test_keeps_the_newest(tmp_path):
    def body(cluster):
        state = job(cluster, "table", "sgd", seed=1)
        saver = Saver(tmp_path, cluster, state, {"flags": {}, "data": {}, "versions": {}},
                      keep=2, interval=3, patience=20, journal=Silent())  # fmt: skip
        for step in range(1, 13):
            if saver.due(step):
                saver.begin(step, 0, [])
        saver.finish()
        return saver.newest().name

    assert ThreadRanks(2).run(body) == ["step-000000012"] * 2
    assert [step for step, _ in folder.checkpoints(tmp_path)] == [9, 12]


def test_what_stops_one_rank_is_said_by_the_first_too(tmp_path, monkeypatch):
    saved = ArrayFiles.write_together

    def fails(arrays, described, pieces):
        if "table_03.rank_1.npy" in described:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "table_03.rank_1.npy")
        return saved(arrays, described, pieces)

    def body(cluster):
        try:
            save(cluster, tmp_path, "table", "sgd", 7)
        except UserError as error:
            return str(error)

    ThreadRanks(2).run(lambda cluster: save(cluster, tmp_path, "table", "sgd", 5) and None)
    monkeypatch.setattr(ArrayFiles, "write_together", fails)
    first, second = ThreadRanks(2).run(body)
    assert "Disk quota exceeded: table_03.rank_1.npy" in second
    assert second.endswith("the newest whole checkpoint is " + str(tmp_path / "step-000000005"))
    assert first == f"rank 1: {second}"
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000005"]


def test_a_damaged_one_is_named_and_the_older_taken(tmp_path):
    for step in (5, 9):
        ThreadRanks(2).run(lambda c, s=step: save(c, tmp_path, "table", "sgd", s) and None)
    victim = tmp_path / "step-000000009" / "table_03.rank_1.npy"
    content = bytearray(victim.read_bytes())
    content[-3] ^= 1
    victim.write_bytes(content)
    reports = []
    readers = ThreadRanks(2).run(lambda c: restore.latest_complete(tmp_path, c, reports.append))
    assert [reader.manifest["step"] for reader in readers] == [5, 5]
    assert len(reports) == 1
    assert "table_03.rank_1.npy" in reports[0]
    # Its place is taken when training comes there again.
    ThreadRanks(2).run(lambda c: save(c, tmp_path, "table", "sgd", 9) and None)
    (reader,) = ThreadRanks(1).run(lambda c: restore.latest_complete(tmp_path, c, pytest.fail))
    assert reader.manifest["step"] == 9


def test_going_on_before_a_damaged_one_keeps_what_is_whole(tmp_path):
    def body(cluster):
        state = job(cluster, "table", "sgd", seed=1)
        saver = Saver(tmp_path, cluster, state, {"flags": FLAGS, "data": DATA, "versions": {}},
                      keep=1, interval=None, patience=20, journal=Silent())  # fmt: skip
        saver.resumed(5)
        saver.begin(5, 0, [])  # as it is on disk
        saver.finish()
        before = (saver.newest() / "manifest.json").stat().st_ino
        saver.begin(7, 0, [])
        saver.finish()
        return before, saver.newest().name

    for step in (5, 9):
        ThreadRanks(2).run(lambda c, s=step: save(c, tmp_path, "table", "sgd", s) and None)
    (tmp_path / "step-000000009" / "table_00.rank_0.npy").unlink()
    written = (tmp_path / "step-000000005" / "manifest.json").stat().st_ino
    found = ThreadRanks(2).run(body)
    assert [before for before, _ in found] == [written] * 2
    assert [after for _, after in found] == ["step-000000007"] * 2
    assert [step for step, _ in folder.checkpoints(tmp_path)] == [7, 9]
    (reader,) = ThreadRanks(1).run(
        lambda c: restore.latest_complete(tmp_path, c, lambda text: None)
    )
    assert reader.manifest["step"] == 7


def test_what_does_not_fit_is_said(tmp_path):
    ThreadRanks(1).run(lambda cluster: save(cluster, tmp_path, "table", "sgd") and None)
    path = tmp_path / "step-000000007"
    reader = Reader(path, manifest.read(path)[0])

    def check(resume=True, vocab=VOCAB, data=DATA, **flags):
        return compatibility.check(reader, {**FLAGS, **flags}, data, list(vocab), resume=resume)

    assert check() == []
    assert check(lr=2.0) == ["--lr was 1.0, is 2.0"]
    options = {"embedding_optimizer_options": "l1=0.5"}
    with pytest.raises(UserError, match=r"--embedding_optimizer was 'sgd', is 'ftrl'"):
        check(embedding_optimizer="ftrl", **options)
    reader.manifest["flags"]["embedding_optimizer"] = "ftrl"
    assert check(embedding_optimizer="ftrl", embedding_optimizer_options="beta=0,l1=0.0") == []
    assert check(embedding_optimizer="ftrl", **options) == [
        "--embedding_optimizer_options was None, is 'l1=0.5'"
    ]
    reader.manifest["flags"]["embedding_optimizer"] = "sgd"
    with pytest.raises(UserError, match=r"table 4: the checkpoint has 40 rows, the data 41$"):
        check(vocab=(*VOCAB[:4], 41))
    with pytest.raises(UserError, match=r"the checkpoint has 5 tables, the data 4$"):
        check(vocab=VOCAB[:4])
    with pytest.raises(UserError, match=r"--embedding_dim was 8, is 16"):
        check(embedding_dim=16, resume=False)
    with pytest.raises(UserError, match=r"--global_batch_size was 24, is 48.*--restore"):
        check(global_batch_size=48)
    assert check(global_batch_size=48, resume=False) == []
    with pytest.raises(UserError, match=r"train_samples was 1000, is 999"):
        check(data={"train_samples": 999})

    def adagrad(cluster):
        state = job(cluster, "table", "adagrad", seed=2)
        with pytest.raises(files.DamagedError, match="no accumulator of table 0"):
            restore.load(reader, state, training=True)
        restore.load(reader, state, training=False)

    ThreadRanks(1).run(adagrad)
