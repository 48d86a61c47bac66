"""Which backend is chosen, and the error if SOK cannot be imported; imports are made up."""

import types

import pytest
import tensorflow as tf

from model.embedding import backend
from model.embedding.interface import EmbeddingOptions
from model.embedding.placement import plan
from model.embedding.sok import SokEmbedding
from ops.bags import Bags
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


def must_not_import(name):
    raise AssertionError(f"imported {name}")


SOK = types.SimpleNamespace(
    Variable=None, lookup_sparse=None, all2all_dense_embedding=None, __version__="2.1.0"
)
SOK_1 = types.SimpleNamespace(All2AllDenseEmbedding=None, __version__="1.3.0")
NOT_INSTALLED = ModuleNotFoundError(
    "No module named 'sparse_operation_kit'", name="sparse_operation_kit"
)


def missing(library):
    return OSError(f"{library}: cannot open shared object file: No such file or directory")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NOT_INSTALLED, ["merlin-sok", "CUDA", tf.__version__]),
        (Exception("[SOK INFO] libsok.so is not found"), ["not built", "libsok.so"]),
        (FileNotFoundError("Could not find libsok.so"), ["not built", "libsok.so"]),
        (missing("libcudart.so.12"), ["libcudart.so.12", "CUDA toolkit"]),
        (missing("libcuda.so.1"), ["libcuda.so.1", "NVIDIA driver"]),
        (missing("libnccl.so.2"), ["libnccl.so.2", "NCCL"]),
        (missing("libmpi.so.40"), ["libmpi.so.40", "MPI"]),
        (OSError("/x/libembedding.so: undefined symbol: _ZN10tens"), [tf.__version__, "_ZN10tens"]),
        (ModuleNotFoundError("No module 'tracking'", name="x"), [tf.__version__, "tracking"]),
        (RuntimeError("a\n  b" * 500), ["RuntimeError: a b"]),
    ],
)
def test_failed_import_is_an_error_of_one_line(error, words):
    with pytest.raises(backend.BackendError) as caught:
        backend.choose("sok", gpus=1, importer=importer(error))
    assert caught.value.flag == "embedding_backend"
    text = str(caught.value)
    assert "SOK" in text and "\n" not in text and len(text) < 500
    for word in words:
        assert word in text
    choice = backend.choose("auto", gpus=1, importer=importer(error))
    assert choice.name == "native" and choice.reason == text


def test_auto_chooses_sok_only_if_it_imports_and_a_gpu_exists():
    assert backend.choose("auto", gpus=0, importer=must_not_import).name == "native"
    with_gpu = backend.choose("auto", gpus=1, importer=importer(SOK))
    assert (with_gpu.name, with_gpu.sok, with_gpu.version) == ("sok", SOK, "2.1.0")


def test_multi_hot_features_are_native():
    options = {"gpus": 1, "importer": importer(SOK), "multi_hot": True}
    choice = backend.choose("auto", **options)
    assert choice.name == "native" and "multi-hot" in choice.reason
    assert backend.choose("native", **options).name == "native"
    with pytest.raises(backend.BackendError, match=r"multi-hot.*--embedding_backend=native"):
        backend.choose("sok", **options)


@pytest.mark.parametrize("name", ["native", "own"])
def test_native_does_not_import_sok(name):
    assert backend.choose(name, gpus=1, importer=must_not_import).name == "native"


def test_sok_without_a_gpu_is_refused():
    with pytest.raises(backend.BackendError) as caught:
        backend.choose("sok", gpus=0, importer=importer(SOK))
    assert (caught.value.flag, caught.value.found) == ("embedding_backend", "sok")
    # A failed import is reported first.
    with pytest.raises(backend.BackendError, match="merlin-sok"):
        backend.choose("sok", gpus=0, importer=importer(NOT_INSTALLED))


@pytest.mark.parametrize("module", [SOK_1, types.SimpleNamespace(__version__="0.9")])
def test_sok_other_than_2_is_refused(module):
    with pytest.raises(backend.BackendError) as caught:
        backend.choose("sok", gpus=1, importer=importer(module))
    assert caught.value.found == module.__version__
    assert "\n" not in str(caught.value)
    assert backend.choose("auto", gpus=1, importer=importer(module)).name == "native"


def test_unknown_backend_is_refused():
    with pytest.raises(backend.BackendError) as caught:
        backend.choose("torch")
    assert (caught.value.flag, caught.value.found) == ("embedding_backend", "torch")


def test_placement_policy_follows_the_backend():
    native, sok = backend.Choice("native"), backend.Choice("sok", SOK, "2.1.0")
    assert [native.policy(p) for p in ("auto", "table", "row")] == ["auto", "table", "row"]
    assert [sok.policy(p) for p in ("auto", "table", "row")] == ["row", "table", "row"]


def test_build_initialises_sok_and_makes_its_embedding():
    cluster, started = SingleProcessGroup(), []
    module = fake_sok.module(cluster)
    init = module.init
    module.init = lambda **options: (started.append(options), init(**options))
    choice = backend.Choice("sok", module, module.__version__)
    placement = plan((20, 3), 4, 1, policy=choice.policy("auto"))
    embedding = backend.build(choice, placement, cluster, 8, EmbeddingOptions(seed=1))
    assert isinstance(embedding, SokEmbedding)
    # SOK's default would replace tf.keras.optimizers for the whole process.
    assert started == [{"comm_tool": "horovod", "use_legacy_optimizer": False}]


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ({"model_parallel_input": True}, None),
        ({"native_kernels": False}, "embedding_kernels"),
        ({"deterministic": True}, "deterministic"),
        ({"side_stream": True}, "embedding_stream"),
        ({"bags": Bags.of((2, 1))}, "embedding_backend"),
    ],
)
def test_build_refuses_options_without_effect_on_sok(option, flag):
    choice = backend.Choice("sok", SOK, "2.1.0")
    placement = plan((20, 3), 4, 1, policy="row")
    with pytest.raises(backend.BackendError) as caught:
        backend.build(
            choice, placement, SingleProcessGroup(), 8, EmbeddingOptions(seed=1, **option)
        )
    assert caught.value.flag == flag


def test_build_refuses_the_side_stream_for_kernels_of_tensorflow():
    options = EmbeddingOptions(seed=1, side_stream=True, native_kernels=False)
    with pytest.raises(backend.BackendError, match="--embedding_kernels=tensorflow") as caught:
        backend.build(
            backend.Choice("native"), plan((20, 3), 4, 1), SingleProcessGroup(), 8, options
        )
    assert caught.value.flag == "embedding_stream"
