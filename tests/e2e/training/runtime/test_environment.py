"""The environment of TensorFlow: memory, quick imports, suppressed notices."""

import os
import re
import resource
import subprocess
import sys

import pytest

from tests.support import launch

MEMORY = """
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

# Prints a notice of TensorFlow and other lines in three contexts, then imports TensorFlow, quickly.
IMPORTS = """
import gc
import os
import sys
from training.runtime import environment

def write():
    os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written\\n"
                b"I0000 00:00:1795922876.129890 11590 port.cc:153] oneDNN custom operations are on."
                b" You may\\n")
    os.write(2, b"a missing library\\n")
    print("printed by Python", file=sys.stderr)

with environment.suppress_notices():
    write()
    with environment.quick_imports():
        import tensorflow
        assert not gc.isenabled()
print("afterwards", file=sys.stderr)
try:
    with environment.suppress_notices():
        write()
        raise RuntimeError
except RuntimeError:
    print("after the error", file=sys.stderr)
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
with environment.suppress_notices():
    write()

assert gc.isenabled() and gc.get_freeze_count() > 50_000
assert not {"keras", "tf_keras", "pandas"} & set(sys.modules)
assert tensorflow.keras.layers.Dense(3)(tensorflow.ones([1, 2])).shape == (1, 3)
import pandas
assert list(pandas.DataFrame({"a": [1, 2]})["a"]) == [1, 2]
with environment.quick_imports():
    import pandas as again
assert again is pandas and gc.isenabled()
"""


def python(code, **variables):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables},
    )  # fmt: skip


def test_tensorflow_keeps_the_memory_of_large_tensors():
    done = python(MEMORY)
    assert done.returncode == 0, done.stderr
    # Fresh memory would cost a page fault per page: 3 steps of 64 MB.
    assert int(done.stdout) < (64 << 20) // resource.getpagesize()


@pytest.fixture(scope="module")
def imports():
    """The lines on standard error of IMPORTS, whose assertions test `quick_imports`."""
    done = python(IMPORTS, TF_CPP_MIN_LOG_LEVEL="2")
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_suppress_notices_passes_on_other_lines_also_after_an_error(imports):
    other = ["a missing library", "printed by Python"]
    assert imports[:6] == [*other, "afterwards", *other, "after the error"]


def test_suppress_notices_passes_on_everything_at_log_level_0(imports):
    assert "oneDNN custom operations are on. You may" in imports[7]


def test_training_does_not_import_keras(tmp_path):
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
