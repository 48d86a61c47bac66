"""ctypes bindings of the CUDA launchers."""

import ctypes
import os
from collections.abc import Callable
from typing import ClassVar

FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2
ELEMENT_BYTES = {FLOAT32: 4, FLOAT16: 2, BFLOAT16: 2}
DTYPE_NAMES = {FLOAT32: "float32", FLOAT16: "float16", BFLOAT16: "bfloat16"}

#: Fields of `Library.newest_launch`, in the order of `dlrm_newest_launch`.
LAUNCH = ("blocks", "threads", "blocks_of_a_multiprocessor", "shared_bytes", "registers",
          "local_bytes")  # fmt: skip


class CudaError(RuntimeError):
    """A launcher returned a CUDA error code.

    Attributes:
        function: name of the launcher.
        code: the cudaError_t.
    """

    def __init__(self, function, code, detail=""):
        super().__init__(f"{function} returned CUDA error {code}{': ' * bool(detail)}{detail}")
        self.function, self.code = function, code


class LibraryError(RuntimeError):
    """A file is not a usable library of launchers; the message is one line."""


class InteractionShape(ctypes.Structure):
    _fields_: ClassVar = [
        ("batch", ctypes.c_int64), ("features", ctypes.c_int64), ("dim", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
    ]  # fmt: skip


class FeatureRows(ctypes.Structure):
    _fields_: ClassVar = [
        ("bottom", ctypes.c_void_p), ("vectors", ctypes.c_void_p),
        ("bottom_stride", ctypes.c_int64), ("vectors_stride", ctypes.c_int64),
    ]  # fmt: skip

    @classmethod
    def of_one_tensor(cls, address, features, dim, element_bytes):
        """Returns the rows of a tensor [B, F, D] at an address: its slices [:, 0] and [:, 1:]."""
        return cls(address, address + dim * element_bytes, features * dim, features * dim)


class IdError(ctypes.Structure):
    _fields_: ClassVar = [
        ("state", ctypes.c_int32), ("table", ctypes.c_int32), ("sample", ctypes.c_int64),
        ("id", ctypes.c_int64), ("bound", ctypes.c_int64),
    ]  # fmt: skip


class EmbeddingBatch(ctypes.Structure):
    _fields_: ClassVar = [
        ("batch", ctypes.c_int64), ("tables", ctypes.c_int64), ("dim", ctypes.c_int64),
        ("total_rows", ctypes.c_int64), ("ids", ctypes.c_void_p),
        ("base_rows", ctypes.POINTER(ctypes.c_int64)),
        ("table_rows", ctypes.POINTER(ctypes.c_int64)),
        ("error", ctypes.POINTER(IdError)), ("id_type", ctypes.c_int32), ("dtype", ctypes.c_int32),
        ("row_type", ctypes.c_int32), ("hotness", ctypes.POINTER(ctypes.c_int32)),
        ("mean", ctypes.POINTER(ctypes.c_uint8)), ("variable", ctypes.POINTER(ctypes.c_uint8)),
        ("offsets", ctypes.c_void_p), ("ids_count", ctypes.c_int64),
    ]  # fmt: skip

    def set_bags(self, bags):
        """Gives the batch fixed slots.

        Args:
            bags: a `Bags` of its tables.
        """
        count = bags.features
        self.hotness = (ctypes.c_int32 * count)(*bags.hotness)
        self.mean = (ctypes.c_uint8 * count)(*(name == "mean" for name in bags.pooling))
        self.variable = (ctypes.c_uint8 * count)(*bags.variable)


class EmbeddingUpdate(ctypes.Structure):
    _fields_: ClassVar = [
        ("optimizer", ctypes.c_int32), ("deterministic", ctypes.c_int32),
        ("learning_rate", ctypes.c_void_p), ("scale", ctypes.c_void_p),
        ("hyperparameters", ctypes.c_float * 8), ("states", ctypes.c_void_p * 4),
    ]  # fmt: skip


class Mlp(ctypes.Structure):
    _fields_: ClassVar = [
        ("batch", ctypes.c_int64), ("widths", ctypes.POINTER(ctypes.c_int64)),
        ("layers", ctypes.c_int32), ("dtype", ctypes.c_int32), ("last_relu", ctypes.c_int32),
        ("tf32", ctypes.c_int32),
    ]  # fmt: skip

    @classmethod
    def of(cls, batch, widths, dtype, last_relu=False, tf32=False):
        """Returns an MLP: widths are the input's, then each layer's."""
        return cls(batch, int64_array(widths), len(widths) - 1, dtype, last_relu, tf32)


class LogLoss(ctypes.Structure):
    _fields_: ClassVar = [
        ("batch", ctypes.c_int64), ("width", ctypes.c_int64), ("dtype", ctypes.c_int32),
        ("relu", ctypes.c_int32), ("hidden", ctypes.c_void_p), ("kernel", ctypes.c_void_p),
        ("bias", ctypes.c_void_p), ("label", ctypes.c_void_p), ("scale", ctypes.c_void_p),
        ("loss", ctypes.c_void_p), ("hidden_gradient", ctypes.c_void_p),
        ("kernel_gradient", ctypes.c_void_p), ("bias_gradient", ctypes.c_void_p),
    ]  # fmt: skip


class DenseUpdate(ctypes.Structure):
    _fields_: ClassVar = [
        ("optimizer", ctypes.c_int32), ("variables", ctypes.c_int32), ("pieces", ctypes.c_int32),
        ("hyperparameters", ctypes.c_float * 3),
        ("variable", ctypes.POINTER(ctypes.c_void_p)),
        ("states", ctypes.POINTER(ctypes.c_void_p)),
        ("variable_size", ctypes.POINTER(ctypes.c_int64)),
        ("piece", ctypes.POINTER(ctypes.c_void_p)),
        ("piece_size", ctypes.POINTER(ctypes.c_int64)),
        ("iteration", ctypes.c_void_p), ("learning_rate", ctypes.c_void_p),
        ("loss_scale", ctypes.c_void_p), ("finite", ctypes.c_void_p),
        ("weights_finite", ctypes.c_void_p),
    ]  # fmt: skip


class LossRecord(ctypes.Structure):
    _fields_: ClassVar = [
        ("loss", ctypes.c_void_p), ("finite", ctypes.c_void_p),
        ("weights_finite", ctypes.c_void_p), ("skips", ctypes.c_int32), ("sum", ctypes.c_void_p),
        ("last", ctypes.c_void_p), ("steps", ctypes.c_void_p),
    ]  # fmt: skip


#: Numbers of the optimizers, as in DlrmDenseOptimizer.
DENSE_OPTIMIZERS = ("sgd", "adagrad", "adam")
#: {optimizer: default values of the kernel's hyper-parameters}
DENSE_HYPERPARAMETERS = {"sgd": (), "adagrad": (1e-8,), "adam": (0.9, 0.999, 1e-7)}

_P, _I, _F, _C = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
_BATCH, _UPDATE = ctypes.POINTER(EmbeddingBatch), ctypes.POINTER(EmbeddingUpdate)
_SHAPE, _ROWS = ctypes.POINTER(InteractionShape), ctypes.POINTER(FeatureRows)
_MLP, _ARRAY, _SIZE = ctypes.POINTER(Mlp), ctypes.POINTER(_P), ctypes.POINTER(ctypes.c_size_t)
_SIGNATURES = {
    "dot_interaction_forward": [_SHAPE, _ROWS, _P, _P],
    "dot_interaction_backward": [_SHAPE, _ROWS, _P, _ROWS, _P],
    "id_error_create": [ctypes.POINTER(ctypes.POINTER(IdError))],
    "embedding_lookup": [_BATCH, _P, _P, _P],
    "embedding_workspace_bytes": [_BATCH, _UPDATE, ctypes.POINTER(ctypes.c_size_t)],
    "embedding_update": [_BATCH, _UPDATE, _P, _P, _P, ctypes.c_size_t, _P],
    "embedding_initialize": [_P, _I, _I, _I, _I, _I, _I, _F, _P],
    "scalars_on_device": [ctypes.POINTER(_F), _I, _P, _P],
    "mlp_saved_bytes": [_MLP, _SIZE],
    "mlp_workspace_bytes": [_MLP, _SIZE],
    "mlp_forward": [_MLP, _P, _ARRAY, _ARRAY, _ARRAY, _P, _P, _P, ctypes.c_size_t, _P],
    "mlp_backward": [_MLP, _P, _P, _P, _ARRAY, _ARRAY, _P, _P, _ARRAY, _ARRAY, _P, ctypes.c_size_t,
                     _P],
    "log_loss_workspace_bytes": [ctypes.POINTER(LogLoss), _SIZE],
    "log_loss": [ctypes.POINTER(LogLoss), _P, ctypes.c_size_t, _P],
    "all_finite": [ctypes.POINTER(_P), ctypes.POINTER(_I), _I, ctypes.c_int32, _P, _P],
    "dense_update_workspace_bytes": [ctypes.POINTER(DenseUpdate), _SIZE],
    "dense_update": [ctypes.POINTER(DenseUpdate), _P, ctypes.c_size_t, _P],
    "record_loss": [ctypes.POINTER(LossRecord), _P],
}  # fmt: skip
_OTHERS = ("dot_interaction_width", "row_optimizer", "id_error_take", "mlp_error")
#: Functions that every library must have.
SYMBOLS = tuple(f"dlrm_{name}" for name in (*_SIGNATURES, *_OTHERS))


class Library:
    """The launchers of one shared object; each raises ``CudaError`` for a code other than 0.

    Args:
        path: the shared object.

    Raises:
        LibraryError: the file does not exist, cannot be loaded or lacks a launcher.
    """

    dot_interaction_forward: Callable[..., None]
    dot_interaction_backward: Callable[..., None]
    id_error_create: Callable[..., None]
    embedding_lookup: Callable[..., None]
    embedding_workspace_bytes: Callable[..., None]
    embedding_update: Callable[..., None]
    embedding_initialize: Callable[..., None]
    scalars_on_device: Callable[..., None]
    mlp_saved_bytes: Callable[..., None]
    mlp_workspace_bytes: Callable[..., None]
    mlp_forward: Callable[..., None]
    mlp_backward: Callable[..., None]
    log_loss_workspace_bytes: Callable[..., None]
    log_loss: Callable[..., None]
    all_finite: Callable[..., None]
    dense_update_workspace_bytes: Callable[..., None]
    dense_update: Callable[..., None]
    record_loss: Callable[..., None]

    def __init__(self, path):
        self._library = _load(path)
        for name, arguments in _SIGNATURES.items():
            function = getattr(self._library, f"dlrm_{name}")
            function.argtypes = arguments
            function.restype = ctypes.c_int
            setattr(self, name, self._checked(name, function))
        self._width = self._library.dlrm_dot_interaction_width
        self._width.argtypes, self._width.restype = [_I, _I], _I
        self._optimizer = self._library.dlrm_row_optimizer
        self._optimizer.argtypes = [ctypes.c_char_p]
        self._take = self._library.dlrm_id_error_take
        self._take.argtypes = [ctypes.POINTER(IdError), ctypes.POINTER(IdError)]
        self._mlp_error = self._library.dlrm_mlp_error
        self._mlp_error.restype = ctypes.c_char_p
        # Only libraries from `tests.gpu.build` record launches.
        self._newest = getattr(self._library, "dlrm_newest_launch", None)
        if self._newest is not None:
            self._newest.argtypes = [ctypes.POINTER(_I)]
        self._seed = getattr(self._library, "dlrm_seed_schedule", None)
        if self._seed is not None:
            self._seed.argtypes, self._seed.restype = [ctypes.c_uint64], None
        self._id_error = None
        sources = getattr(self._library, "dlrm_sources", None)
        if sources is not None:
            sources.restype = ctypes.c_char_p
        #: Digest of the sources that the library was built from, or None.
        self.sources = None if sources is None else sources().decode()

    def _checked(self, name, function):
        def call(*arguments):
            code = function(*arguments)
            if code != 0:
                detail = self.mlp_error() if name.startswith("mlp_") else ""
                raise CudaError(f"dlrm_{name}", code, detail)

        return call

    def width(self, features, dim):
        """Returns the width of an interaction's output row."""
        return self._width(features, dim)

    @property
    def id_error(self):
        """The library's record of bad ids, created on first use."""
        if self._id_error is None:
            self._id_error = ctypes.POINTER(IdError)()
            self.id_error_create(ctypes.byref(self._id_error))
        return self._id_error

    def take_id_error(self):
        """Returns (table, sample, id, bound) of the recorded bad id, or None; clears the record."""
        found = IdError()
        if not self._take(self.id_error, ctypes.byref(found)):
            return None
        return found.table, found.sample, found.id, found.bound

    def newest_launch(self):
        """Returns the fields ``LAUNCH`` of this thread's last launch, or {} if none is recorded."""
        values = (ctypes.c_int64 * len(LAUNCH))()
        if self._newest is None or self._newest(values) != 0:
            return {}
        return dict(zip(LAUNCH, values))

    def launches(self):
        """Returns the number of emulated launches of kernels so far."""
        count = self._library.dlrm_launches
        count.restype = _I
        return count()

    def newest_accesses(self):
        """Counts elements of rows that the last emulated launch accessed.

        Returns (elements accessed atomically, elements accessed plainly).
        """
        counts = (ctypes.c_int64 * 2)()
        self._library.dlrm_newest_accesses(counts)
        return tuple(counts)

    def seed_schedule(self, seed):
        """Seeds the random order in which the emulation runs warps; on a GPU does nothing."""
        if self._seed is not None:
            self._seed(seed)

    def rule(self, optimizer, step, hyperparameters=(), states=(), deterministic=True):
        """Returns an `EmbeddingUpdate`.

        Args:
            optimizer: name of the row optimizer.
            step: device address of two floats, learning rate and scale, read by the kernels.
            hyperparameters: values of the row optimizer.
            states: device addresses.
            deterministic: False lets SGD add gradients in any order.
        """
        number = self._optimizer(optimizer.encode())
        if number < 0:
            raise ValueError(f"the library has no row optimizer {optimizer!r}")
        return EmbeddingUpdate(
            number,
            deterministic,
            step,
            step + ctypes.sizeof(ctypes.c_float),
            tuple(hyperparameters),
            tuple(states),
        )

    def mlp_bytes(self, mlp):
        """Returns (bytes of `saved`, bytes of `workspace`) of an `Mlp`."""
        saved, workspace = ctypes.c_size_t(), ctypes.c_size_t()
        self.mlp_saved_bytes(ctypes.byref(mlp), ctypes.byref(saved))
        self.mlp_workspace_bytes(ctypes.byref(mlp), ctypes.byref(workspace))
        return saved.value, workspace.value

    def mlp_error(self):
        """Returns the line of this thread's last failed call of the MLP."""
        return self._mlp_error().decode()

    def workspace_bytes(self, batch, rule):
        """Returns the bytes of device memory that an update of this batch needs."""
        size = ctypes.c_size_t()
        self.embedding_workspace_bytes(ctypes.byref(batch), ctypes.byref(rule), ctypes.byref(size))
        return size.value

    def bytes_of(self, name, description):
        """Returns the bytes of device memory that a call needs.

        Args:
            name: of the launcher: "log_loss" or "dense_update".
            description: its structure.
        """
        size = ctypes.c_size_t()
        getattr(self, f"{name}_workspace_bytes")(ctypes.byref(description), ctypes.byref(size))
        return size.value


def _load(path):
    if not os.path.isfile(path):
        raise LibraryError(f"{path}: no such file; expected a library of the launchers")
    try:
        library = ctypes.CDLL(os.path.abspath(path))  # a bare name would be searched for elsewhere
    except OSError as error:
        raise LibraryError(f"cannot load a library: {error}") from error
    missing = [name for name in SYMBOLS if not hasattr(library, name)]
    if missing:
        raise LibraryError(f"{path}: expected the launchers of this source tree, found no "
                           f"{', '.join(missing)}")  # fmt: skip
    return library


def pointer_array(values):
    """Returns a ctypes array of addresses, given as numbers or as buffers with a `pointer`."""
    found = [getattr(value, "pointer", value) for value in values]
    return (ctypes.c_void_p * max(1, len(found)))(*found)


def int64_array(values):
    """Returns a ctypes array of int64."""
    return (ctypes.c_int64 * max(1, len(values)))(*[int(v) for v in values])
