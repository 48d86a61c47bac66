"""Loads the native op libraries on first use.

TensorFlow's C++ ABI is not stable between releases, so the libraries' file names contain the
TensorFlow release they are built for, and only a matching library is loaded.
"""

from __future__ import annotations

import functools
import pathlib
from types import ModuleType

import tensorflow as tf

_FOLDER = pathlib.Path(__file__).resolve().parent
# Requirements of a library besides TensorFlow: {name: dependency group of pyproject.toml}.
_NEEDS = {"mlp": "onednn"}


class LibraryNotBuiltError(RuntimeError):
    """A native op library for this TensorFlow is missing or cannot be loaded."""


def path(name: str = "ops") -> pathlib.Path:
    """Returns the path of a library for the running TensorFlow. It need not exist.

    Args:
        name: "ops", or "mlp" (built only if oneDNN is installed).
    """
    release = ".".join(tf.__version__.split(".")[:2])
    return _FOLDER / f"libdlrm_{name}-tf{release}.so"


def is_built(name: str = "ops") -> bool:
    """Returns whether a library for the running TensorFlow exists."""
    return path(name).exists()


@functools.cache
def load(name: str = "ops") -> ModuleType:
    """Loads a library once and returns the module of the ops.

    The ops are in "ops"; "mlp" adds CPU kernels.

    Raises:
        LibraryNotBuiltError: the library or one of its requirements is missing, or it was built
            for another TensorFlow release.
    """
    library = path(name)
    build = "run `make ops` (or `python3 setup.py build_ext --inplace`) with this Python"
    if name in _NEEDS:
        need = f"run `python3 -m pip install --group {_NEEDS[name]}`"
        build = f"{need}, then {build.removeprefix('run ')}"
    if not library.exists():
        others = sorted(p.name for p in _FOLDER.glob(f"libdlrm_{name}-tf*.so"))
        found = f"; found only {', '.join(others)}" if others else ""
        raise LibraryNotBuiltError(
            f"native op library not built: expected {library} for TensorFlow {tf.__version__}"
            f"{found}; {build}"
        )
    # The ops first: a library of kernels has no ops of its own.
    ops = None if name == "ops" else load()
    try:
        loaded = tf.load_op_library(str(library))
    except tf.errors.NotFoundError as error:
        raise LibraryNotBuiltError(
            f"native op library {library} does not load into TensorFlow {tf.__version__}: "
            f"{error.message}; {build}"
        ) from error
    return loaded if ops is None else ops


def kernel_types(op: str) -> dict[str, tuple[tf.DType, ...]]:
    """Returns the kernels of an op that are loaded, as {type of device: values of attribute T}.

    Args:
        op: name of an op, such as "Dlrm>MlpForward".
    """
    # TensorFlow has no public function for this.
    from tensorflow.python.framework import kernels

    found: dict[str, tuple[tf.DType, ...]] = {}
    for kernel in kernels.get_registered_kernels_for_op(op).kernel:
        types = [t for c in kernel.constraint if c.name == "T" for t in c.allowed_values.list.type]
        known = {*found.get(kernel.device_type, ()), *map(tf.as_dtype, types)}
        found[kernel.device_type] = tuple(sorted(known, key=lambda dtype: dtype.as_datatype_enum))
    return found


def has_cuda() -> bool:
    """Returns whether the op library has CUDA kernels; loads it.

    Raises:
        LibraryNotBuiltError: as `load`.
    """
    load()
    return "GPU" in kernel_types("Dlrm>EmbeddingLookup")
