"""Checkpoints and exported models between this environment and one with another TensorFlow.

DLRM_OTHER_PYTHON is the Python of the other environment. The op libraries for its TensorFlow must
be built in this checkout:

    DLRM_OTHER_PYTHON=.venv-tf2.15.1/bin/python python3 -m pytest THIS_FILE
"""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.support import launch
from tests.support.training.checkpoint.keras_archives import FLAGS, VOCAB
from training.optimizers import OPTIMIZERS

OTHER = os.environ.get("DLRM_OTHER_PYTHON")
SERVE = launch.ROOT / "tests/support/training/modes/serve_alone.py"

pytestmark = pytest.mark.skipif(
    OTHER is None, reason="DLRM_OTHER_PYTHON does not name another environment's Python"
)


@pytest.fixture(params=[1, -1], ids=["this to other", "other to this"])
def pythons(request):
    """(the Python that writes, the Python that reads)."""
    return [sys.executable, str(pathlib.Path(OTHER).absolute())][:: request.param]


def run(python, *arguments, cwd=launch.ROOT):
    """Runs a Python as one rank; returns its output."""
    path = f"{pathlib.Path(python).parent}:{os.environ['PATH']}"
    environment = launch.environment(PATH=path, HOROVOD_RANK="0", HOROVOD_SIZE="1")
    done = subprocess.run(
        [python, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train(python, folder, optimizer, steps):
    """Trains up to a step, resuming from the folder; returns the new checkpoint."""
    run(
        python, "main.py", *FLAGS, f"--optimizer={optimizer}", f"--early_stop={steps}",
        f"--checkpoint_dir={folder}", f"--run_dir={folder}-runs", "--embedding_optimizer=sgd",
    )  # fmt: skip
    return folder / f"step-{steps:09d}"


def arrays(folder):
    found = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    return {name: values for name, values in found.items() if not name.startswith("loss_scale")}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_checkpoint_restores_bit_for_bit_in_the_other(pythons, tmp_path, optimizer):
    writer, reader = pythons
    folder = train(writer, tmp_path / "written", optimizer, 3)
    script = "tests.support.training.checkpoint.restored_values"
    run(reader, "-m", script, folder, optimizer, tmp_path / "values.npz")
    found, expected = dict(np.load(tmp_path / "values.npz")), arrays(folder)
    version = str(found.pop("tensorflow"))
    assert f'"tensorflow": "{version}"' not in (folder / "manifest.json").read_text()
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert found[name].tobytes() == values.tobytes(), name
    # Training continues equally, up to the order of sums.
    shutil.copytree(folder, tmp_path / "other" / folder.name)
    one = arrays(train(writer, tmp_path / "written", optimizer, 6))
    two = arrays(train(reader, tmp_path / "other", optimizer, 6))
    assert one.keys() == two.keys()
    for name, values in one.items():
        change = np.linalg.norm(values - expected[name])
        assert np.linalg.norm(two[name] - values) <= 1e-4 * change + 1e-6 * np.linalg.norm(values)
    assert sum(np.any(values != expected[name]) for name, values in one.items()) >= 6


def test_an_exported_model_predicts_equally_in_the_other(pythons, tmp_path, rng):
    writer, reader = pythons
    folder = train(writer, tmp_path / "written", "sgd", 3)
    exported = tmp_path / "exported"
    run(writer, "main.py", "--mode=export", f"--restore={folder}", f"--export_dir={exported}")
    ids = np.stack([rng.integers(0, rows, 200) for rows in VOCAB], axis=1).astype(np.int64)
    dense = rng.uniform(0, 5, (200, 13)).astype(np.float32)
    np.savez(tmp_path / "cases.npz", **{"all.dense": dense, "all.ids": ids})
    answers = []
    for python in (writer, reader):
        target = tmp_path / f"answers{len(answers)}.npz"
        run(python, "-I", SERVE, exported, tmp_path / "cases.npz", target, cwd=tmp_path)
        answers.append(np.load(target)["all"])
    assert answers[0].dtype == np.float32, answers[0]
    np.testing.assert_allclose(answers[1], answers[0], rtol=0, atol=1e-6)
    assert np.ptp(answers[0]) > 0.001
