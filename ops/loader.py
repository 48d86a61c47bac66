"""Loads the native op library on first use.

The library is built for one TensorFlow release (its C++ ABI is not stable between releases), so
its file name carries that release and only a matching one is ever loaded.
"""

import functools
import pathlib

import tensorflow as tf

_FOLDER = pathlib.Path(__file__).resolve().parent


class LibraryNotBuiltError(RuntimeError):
    """The native op library for this TensorFlow is missing or cannot be loaded."""


def path():
    """Returns the path that the library for the running TensorFlow has, whether built or not."""
    release = ".".join(tf.__version__.split(".")[:2])
    return _FOLDER / f"libdlrm_ops-tf{release}.so"


def is_built():
    """Tells whether the library for the running TensorFlow exists."""
    return path().exists()


@functools.cache
def load():
    """Loads the library once and returns the module that holds its ops.

    Raises:
        LibraryNotBuiltError: the library is not there, or was built for another TensorFlow.
    """
    library = path()
    build = "run `make ops` (or `python3 setup.py build_ext --inplace`) with this Python"
    if not library.exists():
        others = sorted(p.name for p in _FOLDER.glob("libdlrm_ops-tf*.so"))
        found = f"; found only {', '.join(others)}" if others else ""
        raise LibraryNotBuiltError(
            f"the native op library {library} for TensorFlow {tf.__version__} is not built"
            f"{found}: {build}"
        )
    try:
        return tf.load_op_library(str(library))
    except tf.errors.NotFoundError as error:
        raise LibraryNotBuiltError(
            f"the native op library {library} does not load into TensorFlow {tf.__version__} "
            f"({error.message}): {build}"
        ) from error
