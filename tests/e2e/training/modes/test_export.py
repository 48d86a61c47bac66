"""--mode=export: the SavedModel equals the trainer, in a process with TensorFlow alone."""

import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from model.dlrm import DenseDLRM, DLRMConfig
from model.embedding.interface import EmbeddingOptions
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from tests.support import launch
from tests.support.paths import ROOT
from tests.support.training import checkpoints
from tests.support.training.checkpoints import BOTTOM, DENSE, DIMENSION, TOP
from training.checkpoint import restore
from training.checkpoint.reader import Reader
from training.checkpoint.state import State
from training.modes import export
from training.runtime.process_group import SingleProcessGroup
from training.step import Forward

VOCAB = [300, 20, 7, 1000, 3, 150]
# {name: options of `checkpoints.write`}
KINDS = {
    "table": {"policy": "table"},
    "row": {"policy": "row", "replicate_below_rows": 10},
    "none": {"interaction": "none", "optimizer": "adagrad"},
    "cat": {"interaction": "cat"},
    "cross": {"interaction": "cross", "cross_layers": 2, "cross_rank": 3},
}


def samples(count, rng):
    dense = np.log1p(rng.integers(0, 2000, (count, DENSE))).astype(np.float32)
    ids = np.stack([rng.integers(0, rows, count) for rows in VOCAB], axis=1)
    return dense, ids.astype(np.int64)


def make_cases(rng):
    """Returns {name: (dense, ids)}: valid samples, then samples that the model must refuse."""
    cases = {f"n{count}": samples(count, rng) for count in (0, 1, 2, 777)}
    dense, ids = samples(50, rng)
    low, high = ids.copy(), ids.copy()
    low[11, 4], high[49, 2] = -1, VOCAB[2]
    nan, infinite = dense.copy(), dense.copy()
    nan[21, 4], infinite[0, 3] = np.nan, -np.inf
    cases.update(low=(dense, low), high=(dense, high), short=(dense[:3], ids[:4]))
    cases.update(nan=(nan, ids), infinite=(infinite, ids))
    return cases


@pytest.fixture(scope="module")
def served_models(tmp_path_factory, seed_of):
    """{kind: (folder of checkpoints, cases, answers)}; one process answers all of them.

    main.py exports the first kind, this process the others.
    """
    folder = tmp_path_factory.mktemp("exports")
    rng = np.random.default_rng(seed_of("exports"))
    found, words = {}, []
    for kind, options in KINDS.items():
        made, target = folder / f"{kind}_checkpoints", folder / kind
        checkpoints.write(made, VOCAB, rng, ranks=2, **options)
        if kind == "table":
            done = launch.run(
                1, "main.py", "--mode=export", f"--checkpoint_dir={made}", f"--export_dir={target}"
            )
            assert done.returncode == 0, done.stdout + done.stderr
        else:
            export.export(reader_of(made), target, "log(x+1)")
        cases = make_cases(rng)
        np.savez(
            folder / f"{kind}.npz",
            **{f"{name}.{key}": value for name, pair in cases.items()
               for key, value in zip(("dense", "ids"), pair)},
        )  # fmt: skip
        words += [target, folder / f"{kind}.npz", folder / f"{kind}_answers.npz"]
        found[kind] = made, cases
    script = ROOT / "tests/support/training/modes/serve_alone.py"
    environment = {"PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [str(word) for word in (sys.executable, "-I", script, *words)], cwd=folder,
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {
        kind: (made, cases, dict(np.load(folder / f"{kind}_answers.npz")))
        for kind, (made, cases) in found.items()
    }


def reader_of(folder):
    (checkpoint,) = pathlib.Path(folder).glob("step-*")
    return Reader(checkpoint, json.loads((checkpoint / "manifest.json").read_text()))


def trainers_logits(kind, folder, dense, ids):
    """Returns the logits of the trainer's forward pass on one rank."""
    cluster = SingleProcessGroup()
    reader = restore.latest_complete(folder, cluster, pytest.fail)
    names = ("interaction", "cross_layers", "cross_rank")
    options = {name: KINDS[kind][name] for name in names if name in KINDS[kind]}
    model = DenseDLRM(DLRMConfig(DENSE, len(VOCAB), BOTTOM, TOP, seed=99, **options))
    embedding = ShardedEmbedding(
        plan(VOCAB, DIMENSION, 1), cluster, len(dense), EmbeddingOptions(seed=99)
    )
    no_optimizer = types.SimpleNamespace(variables=[])
    no_scale = types.SimpleNamespace(variables={}, dynamic=False)
    state = State(model, no_optimizer, no_scale, embedding, cluster)
    restore.load(reader, state, training=False)
    batch = {"dense": tf.constant(dense), "categorical": tf.constant(ids.astype(np.int32))}
    return Forward(model, embedding)(batch).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_exported_model_equals_the_trainer(served_models, kind):
    folder, cases, found = served_models[kind]
    assert found["imported"].size == 0, found["imported"]
    for name in ("n0", "n1", "n2", "n777"):
        dense, ids = cases[name]
        assert found[name].shape == (len(dense), 1)
        assert found[name].dtype == np.float32
        if not len(dense):
            continue
        logits = trainers_logits(kind, folder, dense, ids).astype(np.float64)
        np.testing.assert_allclose(found[name], 1 / (1 + np.exp(-logits)), rtol=0, atol=1e-6)
    assert np.ptp(found["n777"]) > 1e-3  # 1000 times the tolerance.


@pytest.mark.parametrize("kind", KINDS)
def test_exported_model_refuses_invalid_samples(served_models, kind):
    _, _, found = served_models[kind]
    for name, words in {
        "low": ("table 4, sample 11", "-1", "[0, 3)"),
        "high": ("table 2, sample 49", "7", "[0, 7)"),
        "short": ("3", "4"),
        "nan": ("dense feature 4, sample 21", "nan"),
        "infinite": ("dense feature 3, sample 0", "-inf"),
    }.items():
        for word in words:
            assert word in str(found[name]), name
