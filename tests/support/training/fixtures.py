"""A short training whose data can be learnt within seconds, for tests of what it leaves behind."""

import json
import types

import numpy as np
import pytest

from tests.support import launch

# Three and five layers, as MLPerf's model has.
LEARNABLE = (
    "--global_batch_size=200", "--embedding_dim=8", "--bottom_mlp=16,16,8",
    "--top_mlp=16,16,16,16,1", "--lr=0.5", "--warmup_steps=5", "--decay_start_step=0",
)  # fmt: skip


@pytest.fixture(scope="session")
def learnable_data(small_dataset, tmp_path_factory):
    """6,000 + 1,501 samples; the label is whether the first count is above its median, or not:
    in one sample of twenty it is the other way round. Returns the folder."""
    rng = np.random.default_rng()
    folder = tmp_path_factory.mktemp("learnable")
    for part, samples in (("train", 6000), ("test", 1501)):
        source = small_dataset / "raw" / f"{part}_data.bin"
        records = np.fromfile(source, np.int32).reshape(-1, 20)[:samples].copy()
        wrong = rng.random(samples) < 0.05
        records[:, 0] = (records[:, 1] > np.median(records[:, 1])) ^ wrong
        records.tofile(folder / f"{part}_data.bin")
        split = launch.run(
            1, "split_bin.py", folder / f"{part}_data.bin", folder / part,
            "--vocab_sizes=300,20,7,1000,3,150",
        )  # fmt: skip
        assert split.returncode == 0, split.stderr
    return folder


@pytest.fixture(scope="session")
def learnable_run(learnable_data, tmp_path_factory):
    """A run over two ranks to AUC 0.8025: .events, .log (path of MLPerf's), .steps_per_epoch."""
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
