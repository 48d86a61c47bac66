"""A run that stops and resumes equals a run that never stopped, on one rank."""

import functools
import json

import numpy as np
import pytest

from training.checkpoint import folder, manifest

SMALL = (
    "--embedding_dim=8", "--bottom_mlp=16,8", "--top_mlp=16,1", "--warmup_steps=5",
    "--decay_start_step=0", "--auc_threshold=1", "--global_batch_size=400", "--epochs=2",
    "--eval_in_last", "--checkpoint_interval=0", "--shuffle_seed=3",
)  # fmt: skip
STEPS = 100
FLAGS = {
    "sgd-amp-xla": ("--lr=0.5", "--custom_interact", "--xla", "--amp"),
    "adam-adagrad": (
        "--lr=0.01", "--optimizer=adam", "--embedding_optimizer=adagrad", "--loss_scale=dynamic",
    ),
    "sgd-ftrl": (
        "--lr=0.5", "--embedding_lr=0.05", "--embedding_optimizer=ftrl",
        "--embedding_optimizer_options=l1=0.00001,l2=0.0001,beta=0.001",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def train(server, small_dataset, tmp_path_factory):
    """A function (folder, *flags) that runs main.py; returns (its output, its result)."""

    def run(work, *flags):
        done = server.run(
            "main.py", f"--data_dir={small_dataset}", f"--run_dir={work}/runs",
            f"--checkpoint_dir={work}/checkpoints", *SMALL, *flags,
            cwd=tmp_path_factory.getbasetemp(), timeout=200,
        )  # fmt: skip
        assert done.code == 0, done.out + done.err
        return done.out, json.loads((work / "runs" / "latest" / "result.json").read_text())

    return run


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory):
    """A function (name in FLAGS) -> (folder, result) of a run without a stop; each runs once."""

    @functools.cache
    def run(name):
        work = tmp_path_factory.mktemp("undisturbed")
        return work, train(work, *FLAGS[name])[1]

    return run


def newest(work):
    """Returns (step, {file: array}) of the newest checkpoint."""
    step, path = folder.checkpoints(work / "checkpoints")[-1]
    _, digests = manifest.read(path)
    names = [name for name in digests if name.endswith(".npy")]
    return step, {name: np.load(path / name, allow_pickle=False) for name in names}


@pytest.mark.parametrize(
    ("name", "stops"),
    [("sgd-amp-xla", (1, 50)), ("adam-adagrad", (37,)), ("sgd-ftrl", (1, 37))],
)
def test_a_resumed_run_ends_with_the_same_bytes(train, undisturbed, tmp_path, name, stops):
    """Stopped after the first step, within an epoch and at the end of one."""
    complete, expected_result = undisturbed(name)
    assert expected_result["stopped_by"] == "epochs"
    assert expected_result["auc"] > 0.55
    before = None
    for stop in (*stops, None):
        limit = () if stop is None else (f"--early_stop={stop}",)
        out, result = train(tmp_path, *FLAGS[name], *limit)
        assert result["resumed_from_step"] == before
        if before is not None:
            assert f"resuming after step {before}" in out
        before = stop
        step, found = newest(tmp_path)
        assert step == (stop or STEPS)
    assert result["auc"] == expected_result["auc"]
    _, expected = newest(complete)
    assert found.keys() == expected.keys()
    for file, values in expected.items():
        assert found[file].tobytes() == values.tobytes(), file


def test_a_finished_run_does_not_train_on(train, undisturbed):
    work, first = undisturbed("sgd-amp-xla")
    out, again = train(work, *FLAGS["sgd-amp-xla"])
    assert again["steps"] == STEPS
    assert again["auc"] == first["auc"]
    assert "n/a" in out  # Without a step there is no rate.


def test_restore_starts_at_step_0_with_the_given_weights(train, undisturbed, tmp_path):
    work, _ = undisturbed("sgd-amp-xla")
    _, path = folder.checkpoints(work / "checkpoints")[-1]
    out, result = train(
        tmp_path, *FLAGS["sgd-amp-xla"], f"--restore={path}", "--early_stop=2",
        "--global_batch_size=2000", "--print_interval=1",
    )  # fmt: skip
    assert f"weights of step {STEPS}" in out
    assert result["resumed_from_step"] is None
    assert result["steps"] == 2
    journal = (tmp_path / "runs" / "latest" / "journal.jsonl").read_text().splitlines()
    losses = [event["loss"] for event in map(json.loads, journal) if event["event"] == "step"]
    assert losses[0] < 0.65  # Initial weights give ln 2 or more.
