"""Chooses the embedding backend: this project's kernels or SparseOperationKit (SOK) 2.x.

`choose` imports SOK, or explains in one line why it cannot; `build` creates the embedding.
docs/sok.md lists the combinations and their reasons.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import types
from typing import Callable

import tensorflow as tf

from model.embedding.interface import BackendError, Embedding, EmbeddingOptions, Ranks
from model.embedding.placement import Placement
from model.embedding.sharded import ShardedEmbedding
from model.embedding.sok import SokEmbedding
from model.embedding.sok_tables import start

# "own" is the former name of "native".
BACKENDS = ("auto", "native", "own", "sok")
_FLAG = "embedding_backend"

_MULTI_HOT = "SOK is used with one id per sample and table, and features are multi-hot"

# The names of SOK 2.x that this project uses.
_CALLS = ("Variable", "all2all_dense_embedding", "lookup_sparse")

# Providers of the shared libraries that SOK is linked with.
_PROVIDERS = (
    (r"libcuda\.so", "the NVIDIA driver"),
    (r"libcu\w+\.so|libnvrtc\w*\.so|libnvToolsExt\.so", "the CUDA toolkit"),
    (r"libnccl", "NCCL"),
    (r"libmpi|libopen-(rte|pal)", "MPI"),
    (r"libtensorflow\w*\.so", "the TensorFlow that SOK was built with"),
    (r"libsparse_operation_kit|libsok|libhugectr|libembedding", "SOK itself"),
)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The backend of a run.

    Attributes:
        name: "native" or "sok".
        sok: the imported module `sparse_operation_kit`, or None.
        version: SOK's version, or None.
        reason: one line: why it was chosen.
    """

    name: str
    sok: types.ModuleType | None = None
    version: str | None = None
    reason: str = ""

    def policy(self, requested: str) -> str:
        """Returns the policy for `placement.plan` when the user requests `requested`.

        With SOK `auto` is `row`: its lookup of table-wise tables sends all ids to all ranks.
        """
        return "row" if self.name == "sok" and requested == "auto" else requested


def choose(
    name: str,
    *,
    gpus: int | None = None,
    importer: Callable[[str], types.ModuleType] = importlib.import_module,
    multi_hot: bool = False,
) -> Choice:
    """Chooses the backend.

    Args:
        name: "native" (or "own"), "sok", or "auto": SOK if it can be imported and there is a GPU,
            else native.
        gpus: number of GPUs that this process sees; default: TensorFlow's count.
        importer: function from a module's name to the module.
        multi_hot: a sample may have any other number of ids in a table than one (`Bags.is_one_hot`
            is False), which requires native.

    Raises:
        BackendError: "sok" was requested and does not run here, or not this data; one line with the
            reason.
    """
    if name not in BACKENDS:
        raise BackendError.of_flag(_FLAG, name, f"expected one of {', '.join(BACKENDS)}")
    if name in ("native", "own"):
        return Choice("native", reason="requested")
    if multi_hot:
        if name == "sok":
            raise _multi_hot_error()
        return Choice("native", reason=_MULTI_HOT)
    if gpus is None:
        gpus = len(tf.config.list_physical_devices("GPU"))
    if gpus == 0:
        missing = "SOK needs a GPU and TensorFlow sees none"
        if name == "sok":
            # If SOK cannot be imported either, report that: it must be fixed first.
            _import_sok(importer)
            raise BackendError.of_flag(_FLAG, name, missing)
        return Choice("native", reason=missing)
    try:
        sok, version = _import_sok(importer)
    except BackendError as error:
        if name == "sok":
            raise
        return Choice("native", reason=str(error))
    reason = "requested" if name == "sok" else f"SOK {version} can be imported and there is a GPU"
    return Choice("sok", sok, version, reason)


def build(
    choice: Choice,
    placement: Placement,
    cluster: Ranks,
    local_batch_size: int,
    options: EmbeddingOptions,
) -> Embedding:
    """Returns the embedding of the backend that `choose` returned; the rest as for its class.

    Raises:
        BackendError: a flag has no effect on the backend, or SOK cannot start.
    """
    if options.side_stream and (choice.name == "sok" or not options.native_kernels):
        found = "SOK" if choice.name == "sok" else "--embedding_kernels=tensorflow"
        raise BackendError(
            "--embedding_stream moves this project's kernels to a stream of their own and has no "
            f"effect on {found}; leave it out",
            flag="embedding_stream",
        )
    if choice.name == "native":
        return ShardedEmbedding(placement, cluster, local_batch_size, options)
    if options.model_parallel_input:
        raise BackendError(
            "model-parallel input has no effect on SOK, which takes all ids of a rank's own samples"
        )
    if options.bags is not None and not options.bags.is_one_hot:
        raise _multi_hot_error()
    if not options.native_kernels:
        raise BackendError(
            "--embedding_kernels selects the native backend's kernels and has no effect on SOK; "
            "leave it out",
            flag="embedding_kernels",
        )
    if options.deterministic:
        raise BackendError(
            "--deterministic selects the order of the native backend's updates and has no effect "
            "on SOK; leave it out",
            flag="deterministic",
        )
    assert choice.sok is not None
    start(choice.sok, cluster)
    return SokEmbedding(choice.sok, placement, cluster, local_batch_size, options)


def _multi_hot_error():
    return BackendError.of_flag(_FLAG, "sok", f"{_MULTI_HOT}; use --embedding_backend=native")


def _import_sok(importer):
    """Returns (module, version); turns every error of the import into a `BackendError`."""
    try:
        sok = importer("sparse_operation_kit")
    except ModuleNotFoundError as error:
        if error.name == "sparse_operation_kit":
            raise BackendError(
                "SOK is not installed (the package merlin-sok, built against CUDA, NCCL and "
                f"TensorFlow {tf.__version__}; see docs/sok.md)",
                flag=_FLAG,
            ) from error
        raise BackendError(_line(error), flag=_FLAG) from error
    except Exception as error:
        # SOK passes on what its shared libraries and TensorFlow raise, and raises plain Exception.
        raise BackendError(_line(error), flag=_FLAG) from error
    version = str(getattr(sok, "__version__", "unknown"))
    missing = [name for name in _CALLS if not hasattr(sok, name)]
    if missing:
        raise BackendError(
            f"SOK: expected version 2.x (merlin-sok 2.0 or newer), found version {version}, "
            f"which lacks {', '.join(missing)}; install merlin-sok 2.x or use "
            "--embedding_backend=native",
            flag=_FLAG,
            found=version,
        )
    return sok, version


def _line(error):
    """Returns one line: why the import of SOK failed, and what provides a missing library."""
    text = " ".join(str(error).split())
    missing = re.search(r"(lib[\w.+-]+\.so[.\w]*): cannot open shared object file", text)
    if missing:
        library = missing.group(1)
        text = f"the shared library {library} is missing"
        for pattern, provider in _PROVIDERS:
            if re.match(pattern, library):
                text += f"; install {provider} and add its folder to LD_LIBRARY_PATH"
                break
    elif re.search(r"\.so is not found|Could not find lib", text):
        text = f"its native libraries are not built ({text})"
    elif "undefined symbol" in text:
        text = f"it was not built against TensorFlow {tf.__version__} ({text})"
    elif isinstance(error, (ImportError, AttributeError)):
        text = f"it is incompatible with TensorFlow {tf.__version__} ({text})"
    else:
        text = f"{type(error).__name__}: {text}"
    return f"SOK cannot be imported: {text:.400}"
