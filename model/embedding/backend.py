"""Chooses who holds the embedding tables: this project's kernels or SparseOperationKit (SOK).

`choose` imports SOK and says in one line why it cannot, where it cannot; `build` makes the
embedding. docs/sok.md has the combinations and their reasons.
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
from model.embedding.sok import SokEmbedding, start

# "own" is the older name of "native".
BACKENDS = ("auto", "native", "own", "sok")

# The first TensorFlow without names that SOK 1.x uses when it computes gradients
# (tensorflow.python.framework.ops.IndexedSlices).
_SOK_1_ENDS = (2, 13)

# What provides the shared libraries that SOK's own are linked with.
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
        api: 2 for SOK 2.x (`sok.Variable`), 1 for SOK 1.x (`sok.All2AllDenseEmbedding`), or None.
        version: SOK's version, or None.
        reason: one line that says why it was chosen.
    """

    name: str
    sok: types.ModuleType | None = None
    api: int | None = None
    version: str | None = None
    reason: str = ""

    def policy(self, requested: str) -> str:
        """Returns the policy for `placement.plan` where the user asked for `requested`.

        SOK deals rows over all ranks by itself, so that its `auto` is `row`.

        Raises:
            BackendError: SOK cannot place tables that way.
        """
        if self.name == "native":
            return requested
        if requested == "table" and self.api == 1:
            raise BackendError(
                f"SOK {self.version} deals the rows of every table over all ranks: "
                "--placement=table has no effect on it; take --placement=row, SOK 2.x or "
                "--embedding_backend=native"
            )
        return "row" if requested == "auto" else requested


def choose(
    name: str,
    *,
    gpus: int | None = None,
    importer: Callable[[str], types.ModuleType] = importlib.import_module,
) -> Choice:
    """Chooses the backend.

    Args:
        name: "native" (or "own"), "sok", or "auto": SOK where it imports and TensorFlow sees a GPU,
            else native.
        gpus: number of GPUs that this process sees; default: as TensorFlow counts them.
        importer: function from a module's name to the module.

    Raises:
        BackendError: "sok" was asked for and does not run here; one line that says why.
    """
    if name not in BACKENDS:
        raise BackendError(f"embedding backend is {name!r}, expected one of {', '.join(BACKENDS)}")
    if name in ("native", "own"):
        return Choice("native", reason="asked for")
    if gpus is None:
        gpus = len(tf.config.list_physical_devices("GPU"))
    if gpus == 0:
        missing = "SOK runs on GPUs alone and TensorFlow sees none here"
        if name == "sok":
            # Where SOK does not import either, that is what must be put right first.
            _import_sok(importer)
            raise BackendError(f"--embedding_backend=sok: {missing}")
        return Choice("native", reason=missing)
    try:
        sok, api, version = _import_sok(importer)
    except BackendError as error:
        if name == "sok":
            raise
        return Choice("native", reason=str(error))
    reason = "asked for" if name == "sok" else f"SOK {version} imports and a GPU is there"
    return Choice("sok", sok, api, version, reason)


def build(
    choice: Choice,
    placement: Placement,
    cluster: Ranks,
    local_batch_size: int,
    options: EmbeddingOptions,
) -> Embedding:
    """Returns the embedding.

    Args:
        choice: what `choose` returned.
        placement: which rank holds which rows.
        cluster: the ranks.
        local_batch_size: b.
        options: seed, optimizer and exchange.

    Raises:
        BackendError: SOK cannot do it; names the flag.
    """
    if choice.name == "native":
        return ShardedEmbedding(placement, cluster, local_batch_size, options)
    if options.model_parallel_input:
        raise BackendError(
            "SOK takes all ids of a rank's own samples: model-parallel input has no effect on it"
        )
    if not options.native_kernels:
        raise BackendError(
            "--embedding_kernels chooses among the native backend's kernels: it has no effect on "
            "SOK"
        )
    api = choice.api
    assert api is not None  # SOK was chosen
    start(choice.sok, api, cluster, local_batch_size)
    return SokEmbedding(choice.sok, api, placement, cluster, local_batch_size, options)


def _import_sok(importer):
    """Returns (module, api, version); whatever the import raises becomes a `BackendError`."""
    try:
        sok = importer("sparse_operation_kit")
    except ModuleNotFoundError as error:
        if error.name == "sparse_operation_kit":
            raise BackendError(
                "SOK is not installed (the package merlin-sok, built against CUDA, NCCL and "
                f"TensorFlow {tf.__version__}; see docs/sok.md)"
            ) from error
        raise BackendError(_line(error)) from error
    except Exception as error:
        # SOK raises what its shared libraries, TensorFlow's internals and itself raise, plain
        # Exception included.
        raise BackendError(_line(error)) from error
    version = str(getattr(sok, "__version__", "of unknown version"))
    if hasattr(sok, "lookup_sparse") and hasattr(sok, "all2all_dense_embedding"):
        return sok, 2, version
    if not hasattr(sok, "All2AllDenseEmbedding"):
        raise BackendError(
            f"SOK {version} has neither all2all_dense_embedding (2.x) nor All2AllDenseEmbedding "
            "(1.x): this is no version that the project knows"
        )
    release = tuple(int(part) for part in tf.__version__.split(".")[:2])
    if release >= _SOK_1_ENDS:
        raise BackendError(
            f"SOK {version} needs TensorFlow 2.12 or older, found {tf.__version__}: its gradients "
            "use names that TensorFlow 2.13 removed; take SOK 2.x"
        )
    return sok, 1, version


def _line(error):
    """Returns one line: what failed when SOK was imported, and what would provide it."""
    text = " ".join(str(error).split())
    missing = re.search(r"(lib[\w.+-]+\.so[.\w]*): cannot open shared object file", text)
    if missing:
        library = missing.group(1)
        text = f"the shared library {library} is not found" + _provider(library)
    elif re.search(r"\.so is not found|Could not find lib", text):
        text = f"its native libraries are not built ({text})"
    elif "undefined symbol" in text:
        text = f"it was built against another TensorFlow than {tf.__version__} ({text})"
    elif isinstance(error, (ImportError, AttributeError)):
        text = f"it does not fit TensorFlow {tf.__version__} ({text})"
    else:
        text = f"{type(error).__name__}: {text}"
    if len(text) > 400:
        text = text[:397] + "..."
    return f"SOK does not import: {text}"


def _provider(library):
    for pattern, provider in _PROVIDERS:
        if re.match(pattern, library):
            return f": is {provider} installed, and its folder in LD_LIBRARY_PATH?"
    return ""
