"""Selection of a checkpoint, and loading of its values."""

import threading
import types

import pytest

from tests.support.thread_ranks import ThreadRanks
from tests.support.training import checkpoints, small_model
from tests.support.training.checkpoint.distributed_job import (
    fill,
    job,
    make_saver,
    named_values,
    save,
    stored_values,
)  # fmt: skip
from training.checkpoint import folder, restore
from training.checkpoint.errors import DamagedError
from training.checkpoint.state import State
from training.precision import LossScale
from training.runtime.errors import UserError
from training.runtime.process_group import SingleProcessGroup

ALONE = SingleProcessGroup()


def flip_a_bit(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def test_latest_complete_skips_and_reports_a_damaged_checkpoint(tmp_path, rng, seed):
    for step in (5, 9):
        ThreadRanks(2).run(lambda c, s=step: save(c, tmp_path, seed=seed, step=s) and None)
    flip_a_bit(tmp_path / "step-000000009" / "table_03.rank_1.npy", rng)
    reports = []
    readers = ThreadRanks(2).run(lambda c: restore.latest_complete(tmp_path, c, reports.append))
    assert [reader.manifest["step"] for reader in readers] == [5, 5]
    (report,) = reports
    assert str(tmp_path / "step-000000009" / "table_03.rank_1.npy") in report
    # A run that reaches the step again replaces the damaged checkpoint.
    ThreadRanks(2).run(lambda c: save(c, tmp_path, seed=seed, step=9) and None)
    assert restore.latest_complete(tmp_path, ALONE, pytest.fail).manifest["step"] == 9


def test_latest_complete_takes_one_checkpoint_or_a_folder_of_them(tmp_path, rng):
    checkpoints.write(tmp_path, (5, 3), rng, ranks=1, steps=(3, 7))
    older = tmp_path / folder.name_of(3)
    assert restore.latest_complete(older, ALONE, pytest.fail).folder == older
    assert restore.latest_complete(tmp_path, ALONE, pytest.fail).manifest["step"] == 7
    assert restore.latest_complete(tmp_path / "missing", ALONE, pytest.fail) is None


def test_ranks_follow_the_list_of_rank_0(tmp_path, rng, monkeypatch):
    """A shared file system may show an older list to the other ranks."""
    checkpoints.write(tmp_path, (5, 3), rng, ranks=1, steps=(3, 7))
    found, thread = folder.checkpoints(tmp_path), threading.local()

    def body(cluster):
        thread.list = found[: 2 - cluster.rank]
        return restore.latest_complete(tmp_path, cluster, pytest.fail).manifest["step"]

    monkeypatch.setattr(folder, "checkpoints", lambda path: list(thread.list))
    assert ThreadRanks(2).run(body) == [7, 7]


@pytest.mark.parametrize("flag", ["restore", "checkpoint_dir"])
def test_find_checkpoint_names_the_flag_of_a_missing_checkpoint(tmp_path, flag):
    for path in (tmp_path / "missing", tmp_path):
        given = {"restore": None, "checkpoint_dir": None, flag: str(path)}
        with pytest.raises(UserError) as caught:
            restore.find_checkpoint(types.SimpleNamespace(**given), ALONE)
        assert (caught.value.flag, caught.value.path) == (flag, str(path))


def test_load_without_training_keeps_the_states_of_the_optimizers(tmp_path, seed):
    save(ALONE, tmp_path, "row", "adagrad", seed=seed)
    reader = restore.latest_complete(tmp_path, ALONE, pytest.fail)
    state = job(ALONE, "row", "adagrad")
    fill(state, seed + 1)
    restore.load(reader, state, training=False)
    for group, variables in state.named.items():
        for index, variable in enumerate(variables.values()):
            expected = named_values(group, index, variable, seed + (group != "dense"))
            assert variable.numpy().tobytes() == expected.tobytes()
    for stored in state.tables.all:
        expected = stored_values(stored, seed + (stored.state != "table"))
        assert stored.read(0, stored.shape[0]).tobytes() == expected.tobytes()


def test_load_names_what_the_checkpoint_lacks(tmp_path, seed):
    save(ALONE, tmp_path, "row", "sgd", seed=seed)
    reader = restore.latest_complete(tmp_path, ALONE, pytest.fail)
    adagrad, dense = job(ALONE, "row", "adagrad"), reader.manifest["dense"]

    def error_of(training):
        with pytest.raises(DamagedError) as caught:
            restore.load(reader, adagrad, training=training)
        return caught.value

    error = error_of(training=True)
    assert (error.table, error.expected) == (0, "accumulator")
    restore.load(reader, adagrad, training=False)
    entry = dense["99.other"] = dense.pop("00.kernel")
    error = error_of(training=False)
    assert set(error.expected) ^ set(error.found) == {"00.kernel", "99.other"}
    del dense["99.other"]
    dense["00.kernel"] = dense["01.bias"]
    assert error_of(training=False).expected == f"float32 {entry['shape']}"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("dynamic", "dynamic", {"loss_scale": 2**17, "good_steps": 321}),
        # The flag's value applies: float16 under a scale of 1 would underflow.
        ("1", "1024", {"loss_scale": 1024, "good_steps": 0}),
        ("dynamic", "8", {"loss_scale": 8, "good_steps": 0}),
        ("16", "dynamic", {"loss_scale": 2**15, "good_steps": 0}),
    ],
)
def test_load_keeps_only_an_adapted_loss_scale(tmp_path, seed, before, after, expected):
    def make(kind):
        dynamic = kind == "dynamic"
        scale = LossScale(2.0**15 if dynamic else float(kind), dynamic=dynamic)
        model, embedding, optimizer, _ = small_model.build(seed, scale=scale)
        return scale, State(model, optimizer, scale, embedding, ALONE)

    scale, state = make(before)
    if before == "dynamic":
        scale.variables["loss_scale"].assign(2.0**17)
        scale.variables["good_steps"].assign(321)
    scale.variables["skipped_steps"].assign(7)
    saver = make_saver(ALONE, tmp_path, state)
    saver.begin(9, 0, [])
    saver.finish()
    reader = restore.latest_complete(tmp_path, ALONE, pytest.fail)
    reader.manifest["flags"] = {"loss_scale": before}
    scale, state = make(after)
    restore.load(reader, state, training=True)
    values = {name: int(variable.numpy()) for name, variable in scale.variables.items()}
    assert values == {**expected, "skipped_steps": 7, "skipped_in_a_row": 0}
