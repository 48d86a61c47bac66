"""TensorFlow's copies between host and GPU during a step, counted on a GPU that is not there."""

import json
import os
import pathlib

import pytest

from tests.support.placement.fake_gpu import FakeGpu
from tests.support.training.small_model import BATCH, DENSE, VOCAB

FUSED = {
    "custom_interact": True, "dtype": "float16", "fused_mlp": True,
    "kernels": {"fused": True, "update": True},
}  # fmt: skip
CASES = {
    "default": {"custom_interact": True, "dtype": "float16"},
    "TF interaction": {"dtype": "float16"},
    "no overlap": {"overlap": False, "dtype": "float16"},
    "float32": {"custom_interact": True},
    "skips": {"custom_interact": True, "dtype": "float16", "skips": True},
    "concatenation": {"interaction": "cat", "dtype": "float16"},
    "XLA": {"custom_interact": True, "dtype": "float16", "xla": True},
    "XLA, TF interaction": {"dtype": "float16", "xla": True},
    "Adagrad": {"optimizer": "adagrad", "embedding_optimizer": "adagrad"},
    "Adam, FTRL": {"optimizer": "adam", "embedding_optimizer": "ftrl"},
    "two ranks": {"two_ranks": True, "policy": "row", "custom_interact": True},
    "two ranks, compress": {"two_ranks": True, "policy": "row", "compress": True},
    "two ranks, replicated": {"two_ranks": True, "replicate_below_rows": 60},
    "fused": FUSED,
    "fused, float32": {**FUSED, "dtype": "float32"},
    "fused, skips": {**FUSED, "skips": True},
    "fused, two ranks": {**FUSED, "two_ranks": True, "policy": "row"},
    "native update": {"custom_interact": True, "dtype": "float16", "kernels": {"update": True}},
    "without uploads": {"custom_interact": True, "dtype": "float16", "device": None},
}
UPLOADED = [name for name in CASES if name != "without uploads"]
#: A Python environment with TensorFlow's GPU wheel and its CUDA libraries, e.g. .venv-gpu.
VARIABLE = "DLRM_GPU_ENVIRONMENT"
# Dense features, labels and ids, each a multiple of a package's alignment.
PACKAGE = 4 * BATCH * (DENSE + 1 + len(VOCAB))


@pytest.fixture(scope="module")
def step_calls(tmp_path_factory):
    """Returns {case: calls of each step, and of the wait for the last}."""
    environment = os.environ.get(VARIABLE)
    if not environment:
        pytest.skip(f"{VARIABLE} does not name a Python environment with TensorFlow's GPU wheel")
    folder = tmp_path_factory.mktemp("fake_gpu")
    gpu = FakeGpu(pathlib.Path(environment), folder)
    cases = {name: {"device": "GPU:0", **options} for name, options in CASES.items()}
    worker = "tests.support.placement.copies_worker"
    done = gpu.run("-m", worker, str(folder), json.dumps(cases))
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def crossings(step):
    return [call for call in step if call[0] in ("HtoD", "DtoH")]


@pytest.mark.parametrize("case", UPLOADED)
def test_step_copies_only_the_next_batch(step_calls, case):
    *steps, _wait = step_calls[case]
    for step in steps:
        ((kind, memory, size, on_compute_stream),) = crossings(step)
        assert (kind, memory, on_compute_stream) == ("HtoD", "pinned", False)
        if CASES[case].get("two_ranks"):  # the package also has the rows to exchange
            assert size > PACKAGE
        else:
            assert size == PACKAGE


@pytest.mark.parametrize("case", UPLOADED)
def test_step_waits_for_no_kernel(step_calls, case):
    """The host waits only for the last copy from the pinned memory that it overwrites."""
    *steps, _wait = step_calls[case]
    waits = [[call for call in step if call[0] == "wait"] for step in steps]
    assert waits == [[["wait", "event", 0, False]]] * len(steps)


@pytest.mark.parametrize("case", UPLOADED)
def test_step_allocates_no_memory(step_calls, case):
    *steps, _wait = step_calls[case]
    assert not [call for step in steps for call in step if call[0] in ("allocate", "free")]


@pytest.mark.parametrize("case", CASES)
def test_steps_compute_on_the_gpu(step_calls, case):
    """Every step launches the same kernels, so the other tests count complete steps."""
    *steps, _wait = step_calls[case]
    launches = [sorted(call[1] for call in step if call[0] == "launch") for step in steps]
    assert launches == [launches[0]] * len(steps)
    loss = "log_loss_kernel" if "fused" in case else "BlockReduceKernel"
    for part in ("lookup_kernel", loss):
        assert any(part in kernel for kernel in launches[0])


@pytest.mark.parametrize("case", [name for name in CASES if "fused" in name])
def test_fused_step_launches_few_kernels_for_the_dense_part(step_calls, case):
    step = step_calls[case][0]
    launches = [call[1] for call in step if call[0] == "launch"]

    def count(part):
        return sum(part in kernel for kernel in launches)

    # Forward 2 + 1 layers; backward two products a layer, but one without a gradient of the input.
    assert count("cublasLtMatmul") == 3 + 5
    assert count("log_loss_kernel") == 2  # with the one that finishes
    assert count("dense_update_kernel") == 2
    assert count("record_loss_kernel") == 1


def test_reading_the_loss_is_seen(step_calls):
    assert [call[:1] for call in crossings(step_calls["default"][-1])] == [["DtoH"]]


def test_step_without_uploads_copies_each_input(step_calls):
    """What TensorFlow does by itself: at least dense, label, ids and the learning rate."""
    *steps, _wait = step_calls["without uploads"]
    for step in steps:
        sizes = sorted(call[2] for call in crossings(step) if call[0] == "HtoD")
        assert sizes[-3:] == sorted(4 * BATCH * width for width in (DENSE, 1, len(VOCAB)))
        assert len(sizes) >= 4
