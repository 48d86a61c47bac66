"""TensorFlow's copies between host and GPU during a step, counted on a GPU that is not there."""

import json

import pytest

from tests.support.placement.fake_gpu import FakeGpu, NoFakeGpuError
from tests.support.training.small_model import BATCH, DENSE, VOCAB

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
    "without uploads": {"custom_interact": True, "dtype": "float16", "device": None},
}
UPLOADED = [name for name in CASES if name != "without uploads"]
# Dense features, labels and ids, each a multiple of a package's alignment.
PACKAGE = 4 * BATCH * (DENSE + 1 + len(VOCAB))


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """Returns {case: calls of each step, and of the wait for the last}."""
    folder = tmp_path_factory.mktemp("fake_gpu")
    try:
        gpu = FakeGpu(folder)
    except NoFakeGpuError as error:
        pytest.skip(str(error))
    cases = {name: {"device": "GPU:0", **options} for name, options in CASES.items()}
    worker = "tests.support.placement.copies_worker"
    done = gpu.run("-m", worker, str(folder), json.dumps(cases))
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def crossings(step):
    return [call for call in step if call[0] in ("HtoD", "DtoH")]


@pytest.mark.parametrize("case", UPLOADED)
def test_step_copies_only_the_next_batch(calls, case):
    *steps, _wait = calls[case]
    # From pinned memory, and not on the stream of the kernels.
    assert [crossings(step) for step in steps] == [[["HtoD", "pinned", PACKAGE, False]]] * len(
        steps
    )


@pytest.mark.parametrize("case", UPLOADED)
def test_step_waits_for_no_kernel(calls, case):
    """The host waits only for the last copy from the pinned memory that it overwrites."""
    *steps, _wait = calls[case]
    waits = [[call for call in step if call[0] == "wait"] for step in steps]
    assert waits == [[["wait", "event", 0, False]]] * len(steps)


@pytest.mark.parametrize("case", UPLOADED)
def test_step_allocates_no_memory(calls, case):
    *steps, _wait = calls[case]
    assert not [call for step in steps for call in step if call[0] in ("allocate", "free")]


@pytest.mark.parametrize("case", CASES)
def test_steps_compute_on_the_gpu(calls, case):
    """Every step launches the same kernels, so the other tests count complete steps."""
    *steps, _wait = calls[case]
    launches = [sorted(call[1] for call in step if call[0] == "launch") for step in steps]
    assert launches == [launches[0]] * len(steps)
    for part in ("lookup_kernel", "BlockReduceKernel"):  # of the tables and the loss
        assert any(part in kernel for kernel in launches[0])


def test_reading_the_loss_is_seen(calls):
    assert [call[:1] for call in crossings(calls["default"][-1])] == [["DtoH"]]


def test_step_without_uploads_copies_each_input(calls):
    """What TensorFlow does by itself: at least dense, label, ids and the learning rate."""
    *steps, _wait = calls["without uploads"]
    for step in steps:
        sizes = sorted(call[2] for call in crossings(step) if call[0] == "HtoD")
        assert sizes[-3:] == sorted(4 * BATCH * width for width in (DENSE, 1, len(VOCAB)))
        assert len(sizes) >= 4
