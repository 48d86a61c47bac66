"""`Saver`: which checkpoints it writes, keeps and refuses, and how failures end."""

import errno
import os

import numpy as np
import pytest

from tests.support.thread_ranks import ThreadRanks
from tests.support.training.checkpoint.distributed_job import job, make_saver, save
from training.checkpoint import folder, manifest, saver, verify
from training.checkpoint.npy_files import ArrayFiles
from training.runtime.errors import UserError
from training.runtime.process_group import SingleProcessGroup
from training.telemetry.journal import Journal

EVALUATION = {"step": 6, "auc": 0.625, "log_loss": 0.5, "samples": 40, "seconds": 1.5}


class Recorder(list):
    """A sink that keeps the records of a journal."""

    event = list.append


def steps_in(path):
    return [step for step, _ in folder.checkpoints(path)]


def test_a_checkpoint_holds_every_value_and_its_description(tmp_path, seed):
    def body(cluster):
        state, recorder = job(cluster, "row", seed=seed), Recorder()
        writer = make_saver(cluster, tmp_path, state, journal=Journal([recorder]))
        writer.begin(7, 2, [EVALUATION])
        writer.finish()
        return state, recorder

    (state, (event,)), (other, _) = ThreadRanks(2).run(body)
    path = tmp_path / "step-000000007"
    assert os.listdir(tmp_path) == [path.name]
    assert verify.find_problems(path) == []
    read, digests = manifest.read(path)
    assert set(digests) | {"SHA256SUMS"} == set(os.listdir(path))
    assert (read["step"], read["epoch"], read["ranks"]) == (7, 2, 2)
    assert read["evaluations"] == [EVALUATION]
    for group, variables in state.named.items():
        for name, variable in variables.items():
            values = np.load(path / f"{group}.{name}.npy", allow_pickle=False)
            np.testing.assert_array_equal(values, variable.numpy(), strict=True)
    for stored in (*state.tables.all, *other.tables.all):
        values = np.load(path / f"{stored.name}.npy", allow_pickle=False)
        np.testing.assert_array_equal(values, stored.read(0, stored.shape[0]), strict=True)
    assert (event["event"], event["step"], event["path"]) == ("checkpoint", 7, str(path))
    headers = 128 * len(digests)
    assert 0 <= sum(p.stat().st_size for p in path.glob("*.npy")) - event["bytes"] <= headers


def test_due_and_keep_follow_their_arguments(tmp_path):
    def body(cluster):
        assert not make_saver(cluster, tmp_path, None).due(3)
        writer = make_saver(cluster, tmp_path, job(cluster), keep=2, interval=3)
        assert writer.newest() is None
        for step in range(1, 13):
            assert writer.due(step) == (step in (3, 6, 9, 12))
            if writer.due(step):
                writer.begin(step, 0, [])
        writer.finish()
        return writer.newest().name

    assert ThreadRanks(2).run(body) == ["step-000000012"] * 2
    assert steps_in(tmp_path) == [9, 12]


def test_a_resumed_run_keeps_its_checkpoint_and_skips_later_damaged_ones(tmp_path, seed):
    def body(cluster):
        writer = make_saver(cluster, tmp_path, job(cluster), keep=1)
        writer.resumed(5)
        writer.begin(5, 0, [])  # The checkpoint exists and is not written again.
        writer.finish()
        before = (writer.newest() / "manifest.json").stat().st_ino
        writer.begin(7, 0, [])
        writer.finish()
        return before, writer.newest().name

    for step in (5, 9):
        ThreadRanks(2).run(lambda c, s=step: save(c, tmp_path, seed=seed, step=s) and None)
    (tmp_path / "step-000000009" / "table_00.rank_0.npy").unlink()
    written = (tmp_path / "step-000000005" / "manifest.json").stat().st_ino
    assert ThreadRanks(2).run(body) == [(written, "step-000000007")] * 2
    assert steps_in(tmp_path) == [7, 9]


def test_the_error_of_any_rank_reaches_rank_0(tmp_path, monkeypatch, seed):
    write = ArrayFiles.write_together

    def fail(arrays, described, pieces):
        if "table_03.rank_1.npy" in described:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "table_03.rank_1.npy")
        return write(arrays, described, pieces)

    def body(cluster):
        with pytest.raises(UserError) as caught:
            save(cluster, tmp_path, seed=seed, step=7)
        return caught.value

    ThreadRanks(2).run(lambda cluster: save(cluster, tmp_path, seed=seed, step=5) and None)
    monkeypatch.setattr(ArrayFiles, "write_together", fail)
    first, second = ThreadRanks(2).run(body)
    assert second.path == "table_03.rank_1.npy"
    assert second.found > second.expected > 0  # Bytes that are free, and those it needs.
    for word in ("Disk quota exceeded", "table_03.rank_1.npy", str(tmp_path / "step-000000005")):
        assert word in str(second)
    assert str(first) == f"rank 1: {second}"
    assert steps_in(tmp_path) == [5]
    assert os.listdir(tmp_path) == ["step-000000005"]


def test_a_removed_folder_is_a_user_error(tmp_path, monkeypatch, seed):
    path, write = tmp_path / "checkpoints", ArrayFiles.write_together

    def remove_and_write(*arguments):
        if path.exists():
            path.rename(tmp_path / "elsewhere")
        return write(*arguments)

    monkeypatch.setattr(ArrayFiles, "write_together", remove_and_write)
    with pytest.raises(UserError) as caught:
        save(SingleProcessGroup(), path, seed=seed)
    assert caught.value.path.startswith(str(path))
    assert "no longer exists" in str(caught.value)


@pytest.mark.parametrize("name", ["11", "50", "50.partial", "50.replaced"])
def test_check_names_refuses_a_foreign_folder_that_the_run_needs(tmp_path, name):
    path = tmp_path / f"step-0000000{name}"

    def body(cluster):
        writer = make_saver(cluster, tmp_path, None)
        if cluster.rank == 0:
            path.mkdir()
            (path / "keep.txt").touch()
        with pytest.raises(UserError) as caught:
            writer.check_names(10, 50)
        assert caught.value.flag == "checkpoint_dir"
        return caught.value

    first, second = ThreadRanks(2).run(body)
    assert (first.path, second.path) == (str(path), str(tmp_path))
    assert "holds keep.txt" in str(first)


@pytest.mark.parametrize("step", [1, 10, 51])
def test_check_names_warns_of_other_foreign_folders(tmp_path, step):
    recorder, path = Recorder(), tmp_path / folder.name_of(step)
    writer = make_saver(SingleProcessGroup(), tmp_path, None, journal=Journal([recorder]))
    path.mkdir()
    (path / "keep.txt").touch()
    writer.check_names(10, 50)
    (record,) = recorder
    assert record["text"].startswith(f"warning: {path} holds keep.txt")


def test_prepare_requires_storage_that_all_ranks_share(tmp_path):
    def body(cluster):
        with pytest.raises(UserError) as caught:
            saver.prepare(tmp_path / f"disk_of_{cluster.rank}", cluster)
        return caught.value

    for error in ThreadRanks(3).run(body):
        assert error.flag == "checkpoint_dir"
        assert "2 of 3 ranks" in str(error)


def test_prepare_names_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        saver.prepare(tmp_path / "file" / "checkpoints", SingleProcessGroup())
    assert caught.value.flag == "checkpoint_dir"
    assert "Not a directory" in str(caught.value)
