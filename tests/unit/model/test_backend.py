"""Which backend is chosen, and what is said where SOK does not import; imports are made up."""

import sys
import types

import pytest
import tensorflow as tf

from model.embedding import backend, sok
from model.embedding.interface import EmbeddingOptions, lookup
from model.embedding.placement import plan
from model.embedding.sharded import ShardedEmbedding
from model.embedding.sok import SokEmbedding
from tests.support.model import fake_sok
from training.runtime.process_group import SingleProcessGroup


def importer(result):
    """Returns a function like importlib.import_module that returns or raises `result`."""

    def import_module(name):
        assert name == "sparse_operation_kit"
        if isinstance(result, BaseException):
            raise result
        return result

    return import_module


SOK_2 = types.SimpleNamespace(lookup_sparse=None, all2all_dense_embedding=None, __version__="2.1.0")
SOK_1 = types.SimpleNamespace(All2AllDenseEmbedding=None, __version__="1.3.0")
NOT_INSTALLED = ModuleNotFoundError(
    "No module named 'sparse_operation_kit'", name="sparse_operation_kit"
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NOT_INSTALLED, ["not installed", "merlin-sok", "CUDA", tf.__version__]),
        (
            Exception("[SOK INFO] libsok.so is not found"),
            ["native libraries are not built", "libsok.so is not found"],
        ),
        (
            FileNotFoundError("Could not find libsparse_operation_kit.so"),
            ["native libraries are not built"],
        ),
        (
            tf.errors.NotFoundError(
                None, None, "libcudart.so.12: cannot open shared object file: No such file"
            ),
            ["libcudart.so.12", "CUDA toolkit"],
        ),
        (
            OSError("libcuda.so.1: cannot open shared object file: No such file or directory"),
            ["libcuda.so.1", "NVIDIA driver"],
        ),
        (OSError("libnccl.so.2: cannot open shared object file: No"), ["libnccl.so.2", "NCCL"]),
        (ImportError("libmpi.so.40: cannot open shared object file: x"), ["libmpi.so.40", "MPI"]),
        (
            tf.errors.NotFoundError(None, None, "/x/libembedding.so: undefined symbol: _ZN10tens"),
            ["another TensorFlow than " + tf.__version__, "undefined symbol"],
        ),
        (
            ModuleNotFoundError(
                "No module named 'tensorflow.python.training.tracking'",
                name="tensorflow.python.training.tracking",
            ),
            ["does not fit TensorFlow " + tf.__version__, "training.tracking"],
        ),
        (RuntimeError("a\n  b" * 500), ["RuntimeError: a b", "..."]),
    ],
)
def test_an_import_that_fails_is_one_clear_line(error, words):
    with pytest.raises(backend.BackendError) as caught:
        backend.choose("sok", gpus=1, importer=importer(error))
    text = str(caught.value)
    assert "SOK" in text and "\n" not in text and len(text) < 500
    for word in words:
        assert word in text
    choice = backend.choose("auto", gpus=1, importer=importer(error))
    assert choice.name == "native" and choice.reason == text


def test_auto_takes_sok_only_where_it_imports_and_a_gpu_exists():
    def must_not_import(name):
        raise AssertionError("auto imported SOK without a GPU")

    without_gpu = backend.choose("auto", gpus=0, importer=must_not_import)
    assert without_gpu.name == "native" and "sees none" in without_gpu.reason
    with_gpu = backend.choose("auto", gpus=1, importer=importer(SOK_2))
    assert (with_gpu.name, with_gpu.api, with_gpu.version) == ("sok", 2, "2.1.0")
    assert backend.choose("own", gpus=1, importer=must_not_import).name == "native"


def test_sok_without_a_gpu_is_refused():
    with pytest.raises(backend.BackendError, match=r"--embedding_backend=sok: .* sees none"):
        backend.choose("sok", gpus=0, importer=importer(SOK_2))
    # What does not import is said first: it is the nearer cause.
    with pytest.raises(backend.BackendError, match="not installed"):
        backend.choose("sok", gpus=0, importer=importer(NOT_INSTALLED))


def test_sok_as_this_machine_has_it():
    """The true import: one line or a module, never another exception."""
    try:
        choice = backend.choose("sok")
    except backend.BackendError as error:
        assert "\n" not in str(error)
    else:
        assert choice.api in (1, 2)


def test_sok_1_goes_with_tensorflow_2_12_alone(monkeypatch):
    monkeypatch.setattr(tf, "__version__", "2.13.1")
    with pytest.raises(backend.BackendError, match=r"2.12 or older, found 2.13.1"):
        backend.choose("sok", gpus=1, importer=importer(SOK_1))
    monkeypatch.setattr(tf, "__version__", "2.12.0")
    assert backend.choose("sok", gpus=1, importer=importer(SOK_1)).api == 1


def test_an_unknown_sok_or_name_is_refused():
    with pytest.raises(backend.BackendError, match=r"SOK 0.9 has neither"):
        other = types.SimpleNamespace(__version__="0.9")
        backend.choose("sok", gpus=1, importer=importer(other))
    names = "auto, native, own, sok"
    with pytest.raises(backend.BackendError, match=f"'torch', expected one of {names}"):
        backend.choose("torch")


def test_the_placement_policy_follows_the_backend():
    own, modern = backend.Choice("native"), backend.Choice("sok", None, 2, "2.1.0")
    old = backend.Choice("sok", None, 1, "1.3.0")
    assert [own.policy(p) for p in ("auto", "table", "row")] == ["auto", "table", "row"]
    assert [modern.policy(p) for p in ("auto", "table", "row")] == ["row", "table", "row"]
    assert [old.policy(p) for p in ("auto", "row")] == ["row", "row"]
    with pytest.raises(backend.BackendError, match="--placement=table has no effect"):
        old.policy("table")


@pytest.mark.parametrize("api", [1, 2])
def test_build_initialises_sok_and_makes_the_embedding(api):
    cluster, started = SingleProcessGroup(), []
    module = fake_sok.sok2(cluster) if api == 2 else fake_sok.sok1(cluster)
    name = "init" if api == 2 else "Init"
    real = getattr(module, name)
    setattr(module, name, lambda **options: (started.append(options), real(**options)))
    choice = backend.Choice("sok", module, api, module.__version__)
    placement = plan((20, 3), 4, 1, policy=choice.policy("auto"))
    embedding = backend.build(choice, placement, cluster, 8, EmbeddingOptions(seed=1))
    assert isinstance(embedding, SokEmbedding)
    # Its default would replace tf.keras.optimizers for the whole process.
    expected = {"comm_tool": "horovod", "use_legacy_optimizer": False}
    assert started == [expected if api == 2 else {"global_batch_size": 8}]
    with pytest.raises(backend.BackendError, match="model-parallel input has no effect"):
        backend.build(
            choice, placement, cluster, 8, EmbeddingOptions(seed=1, model_parallel_input=True)
        )
    with pytest.raises(backend.BackendError, match=r"--embedding_kernels .* no effect on SOK"):
        backend.build(choice, placement, cluster, 8, EmbeddingOptions(seed=1, native_kernels=False))


def test_build_makes_the_own_embedding():
    placement = plan((20, 3), 4, 1, policy="table")
    embedding = backend.build(
        backend.Choice("native"),
        placement,
        SingleProcessGroup(),
        8,
        EmbeddingOptions(seed=1, native_kernels=True),
    )
    assert isinstance(embedding, ShardedEmbedding)
    vectors = lookup(embedding, embedding.plan_ids(tf.zeros((8, 2), tf.int32)))
    assert tuple(vectors.shape) == (8, 2, 4)


def test_starting_sok_2_needs_the_ranks_of_horovod(monkeypatch):
    class Five:
        rank, size, local_size = 0, 5, 5

    with pytest.raises(backend.BackendError, match="Horovod sees 1 ranks, this job has 5"):
        sok.start(fake_sok.sok2(SingleProcessGroup()), 2, Five(), 8)
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", None)
    with pytest.raises(backend.BackendError, match="Horovod, which does not import"):
        sok.start(fake_sok.sok2(SingleProcessGroup()), 2, SingleProcessGroup(), 8)


def test_sok_2_that_is_initialised_already_is_left_alone():
    def raising(message):
        def init(**_):
            raise RuntimeError(message)

        return types.SimpleNamespace(init=init)

    sok.start(
        raising("Communication tool cannot be set more than once"), 2, SingleProcessGroup(), 8
    )
    with pytest.raises(RuntimeError, match="something else"):
        sok.start(raising("something else"), 2, SingleProcessGroup(), 8)
