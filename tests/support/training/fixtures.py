"""A short training run on data that is easy to learn, for tests of its journal and logs."""

import json
import types

import numpy as np
import pytest

import split_bin
from tests.support import launch

# Three and five layers, as in MLPerf's model.
LEARNABLE = (
    "--global_batch_size=200", "--embedding_dim=8", "--bottom_mlp=16,16,8",
    "--top_mlp=16,16,16,16,1", "--lr=0.5", "--warmup_steps=5", "--decay_start_step=0",
)  # fmt: skip


@pytest.fixture(scope="session")
def learnable_data(small_dataset, tmp_path_factory, seed_of):
    """The folder of a dataset of 6,000 + 1,501 samples.

    The label is whether the first count is above its median; one label in twenty is inverted.
    """
    rng = np.random.default_rng(seed_of("learnable_data"))
    folder = tmp_path_factory.mktemp("learnable")
    for part, samples in (("train", 6000), ("test", 1501)):
        source = small_dataset / "raw" / f"{part}_data.bin"
        records = np.fromfile(source, np.int32).reshape(-1, 20)[:samples].copy()
        wrong = rng.random(samples) < 0.05
        records[:, 0] = (records[:, 1] > np.median(records[:, 1])) ^ wrong
        records.tofile(folder / f"{part}_data.bin")
        assert not split_bin.main(
            [str(folder / f"{part}_data.bin"), str(folder / part),
             "--vocab_sizes=300,20,7,1000,3,150"]
        )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def learnable_run(learnable_data, tmp_path_factory):
    """A run of two ranks to AUC 0.8025: .events, .log (path of MLPerf's log), .steps_per_epoch."""
    folder = tmp_path_factory.mktemp("learnable_run")
    done = launch.run(
        2, "main.py", f"--data_dir={learnable_data}", f"--run_dir={folder / 'runs'}", *LEARNABLE,
        "--epochs=20", "--evals_per_epoch=4", "--auc_threshold=0.8025",
        f"--checkpoint_dir={folder / 'checkpoints'}", f"--mlperf_log={folder / 'result_0.txt'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "runs" / "latest" / "journal.jsonl").read_text().splitlines()
    return types.SimpleNamespace(
        log=folder / "result_0.txt",
        events=[json.loads(line) for line in lines], steps_per_epoch=30,
    )  # fmt: skip
