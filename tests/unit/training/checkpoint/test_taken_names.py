"""A run says before its first step that the name of one of its checkpoints is taken."""

import types

import numpy as np
import pytest

from training.checkpoint.saver import Saver
from training.runtime.errors import UserError
from training.telemetry.journal import Journal

ALONE = types.SimpleNamespace(rank=0, size=1, all_reduce_sum=np.asarray)


@pytest.fixture
def messages():
    return []


@pytest.fixture
def saver(tmp_path, messages):
    sink = types.SimpleNamespace(event=lambda record: messages.append(record["text"]))
    return Saver(
        tmp_path, ALONE, None, {}, keep=1, interval=None, patience=1, journal=Journal([sink])
    )


def occupy(path):
    path.mkdir()
    (path / "keep.txt").write_text("theirs")


@pytest.mark.parametrize("suffix", ["", ".partial", ".replaced"])
@pytest.mark.parametrize("step", [11, 50])
def test_a_taken_name_is_an_error(tmp_path, saver, messages, step, suffix):
    occupy(tmp_path / f"step-{step:09d}{suffix}")
    with pytest.raises(UserError) as raised:
        saver.check_names(10, 50)
    assert str(raised.value) == (
        f"{tmp_path}/step-{step:09d}{suffix}: holds keep.txt, which no checkpoint does, but this "
        f"run may write the checkpoint of step {step} there: move it away, or give another "
        "--checkpoint_dir"
    )
    assert messages == []


@pytest.mark.parametrize("step", [1, 10, 51])
def test_a_name_that_the_run_does_not_need_is_said_once(tmp_path, saver, messages, step):
    path = tmp_path / f"step-{step:09d}"
    occupy(path)
    saver.check_names(10, 50)
    assert messages == [
        f"warning: {path} holds keep.txt, which no checkpoint does: it stays as it is"
    ]


def test_all_ranks_end_when_a_name_is_taken(tmp_path, saver):
    occupy(tmp_path / "step-000000011")
    counted = []

    def add(values):
        counted.append(values)
        return np.asarray([1.0])

    other = types.SimpleNamespace(rank=1, size=2, all_reduce_sum=add)
    saver._cluster = other
    with pytest.raises(UserError, match="rank 0 cannot write its checkpoints"):
        saver.check_names(10, 50)
    assert counted == [[0.0]]


def test_files_of_a_name_like_the_probes_stay(tmp_path, saver):
    (tmp_path / ".ranks").write_text("theirs")
    Saver(tmp_path, ALONE, None, {}, keep=1, interval=None, patience=1, journal=Journal())
    assert [path.name for path in tmp_path.iterdir()] == [".ranks"]
    assert (tmp_path / ".ranks").read_text() == "theirs"
