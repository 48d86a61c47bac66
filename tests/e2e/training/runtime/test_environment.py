"""What is set before TensorFlow is imported."""

import os
import re
import resource
import subprocess
import sys

from tests.support import launch
from training.runtime import environment

SCRIPT = """
import resource
from training.runtime import environment
environment.prepare()
import tensorflow as tf

big = tf.zeros([64 << 20], tf.int8)
double = tf.function(lambda x: x + x)
for step in range(6):
    if step == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    double(big)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**variables):
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return int(found.stdout)


def test_tensorflow_keeps_the_memory_of_large_tensors():
    # Fresh memory would cost a fault a page: 3 steps of 64 MB.
    assert page_faults() < (64 << 20) // resource.getpagesize()


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("TF_CPU_ALLOCATOR_USE_BFC", "false")
    monkeypatch.setenv("TF_CPU_BFC_MEM_LIMIT_IN_MB", "77")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.setenv("GRPC_VERBOSITY", "INFO")
    before = dict(os.environ)
    environment.prepare()
    assert dict(os.environ) == before


QUICK = """
import gc
import sys
from training.runtime import environment
with environment.quick_imports():
    import tensorflow
    assert not gc.isenabled()
assert gc.isenabled() and gc.get_freeze_count() > 50_000
assert not {"keras", "tf_keras", "pandas"} & set(sys.modules)
assert tensorflow.keras.layers.Dense(3)(tensorflow.ones([1, 2])).shape == (1, 3)
import pandas
assert list(pandas.DataFrame({"a": [1, 2]})["a"]) == [1, 2]
with environment.quick_imports():
    import pandas as again
assert again is pandas and gc.isenabled()
"""


WITHHELD = """
import os
import sys
from training.runtime import environment
with environment.suppress_notices():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written\\n"
                b"I0000 00:00:1795922876.129890 11590 port.cc:153] oneDNN custom operations are on."
                b" You may\\n")
    os.write(2, b"a library that is missing\\n")
    print("printed by Python", file=sys.stderr)
    import tensorflow
    {ending}
print("afterwards", file=sys.stderr)
"""


def told_at_import(ending, level):
    return subprocess.run(
        [sys.executable, "-c", WITHHELD.format(ending=ending)], capture_output=True, text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": level},
    )  # fmt: skip


def test_tensorflows_notices_are_withheld_and_nothing_else():
    done = told_at_import("pass", "2")
    assert done.returncode == 0
    assert done.stderr == "a library that is missing\nprinted by Python\nafterwards\n"


def test_what_was_printed_before_an_error_is_not_lost():
    done = told_at_import("raise SystemExit('the error')", "2")
    assert done.returncode == 1
    assert done.stderr == "a library that is missing\nprinted by Python\nthe error\n"


def test_notices_are_printed_to_who_asks_for_them():
    assert "oneDNN custom operations are on. You may" in told_at_import("pass", "0").stderr


def test_a_training_run_imports_no_keras(tmp_path):
    done = launch.run(
        1, "-X", "importtime", "main.py", "--use_synthetic_dataset", "--vocab_sizes=5,3",
        "--embedding_dim=2", "--bottom_mlp=4,2", "--top_mlp=3,1", "--global_batch_size=8",
        "--early_stop=2", "--optimizer=adam", f"--checkpoint_dir={tmp_path / 'checkpoints'}",
        f"--run_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    imported = set(re.findall(r"\|\s+([\w.]+)$", done.stderr, re.MULTILINE))
    assert {"tensorflow", "training.optimizers"} <= imported
    assert not {name for name in imported if name.split(".")[0] in ("keras", "tf_keras")}


def test_quick_imports_leave_everything_as_it_was():
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
