"""Matrix products of oneDNN 3 from pip (onednn-devel-cpu-gomp) through its C interface.

The second matrix is in oneDNN's preferred layout, like weights that are packed once.
"""

from __future__ import annotations

import ctypes
import pathlib
import sysconfig
from collections.abc import Callable
from typing import Any

import numpy as np

# From dnnl_types.h and dnnl_common_types.h, version 3.
_CPU, _IN_ORDER, _ANY, _ROW_MAJOR = 1, 1, 1, 3
_DTYPES = {"fp32": 3, "bf16": 2}
_SRC, _WEIGHTS, _DST = 1, 33, 17
_QUERY = {_SRC: 129, _WEIGHTS: 131, _DST: 133}
_BYTES = {"fp32": 4, "bf16": 2}
_UNIMPLEMENTED = 3


class NoProductError(RuntimeError):
    """OneDNN has no product of this precision on this processor."""


class _Argument(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("memory", ctypes.c_void_p))


def load() -> ctypes.CDLL | None:
    """Returns this environment's oneDNN library, or None if version 3 is not installed."""
    path = pathlib.Path(sysconfig.get_path("data")) / "lib" / "libdnnl.so.3"
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return None
    library.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
    library.dnnl_memory_desc_get_size.argtypes = [ctypes.c_void_p]
    library.dnnl_primitive_desc_query_md.restype = ctypes.c_void_p
    library.dnnl_primitive_desc_query_md.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    return library


def version(library: ctypes.CDLL) -> str:
    """Returns the library's version as text."""

    class Version(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_int) for name in ("major", "minor", "patch"))

    library.dnnl_version.restype = ctypes.POINTER(Version)
    found = library.dnnl_version().contents
    return f"{found.major}.{found.minor}.{found.patch}"


class Products:
    """Products in "fp32" or "bf16", callable as the argument of `gemm.flops_per_second`."""

    def __init__(self, library: ctypes.CDLL, precision: str):
        self._library, self._precision = library, precision
        self._engine, self._stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._do("engine_create", ctypes.byref(self._engine), _CPU, ctypes.c_size_t(0))
        self._do("stream_create", ctypes.byref(self._stream), self._engine, _IN_ORDER)

    def _do(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, f"dnnl_{name}")(*arguments)
        if status == _UNIMPLEMENTED:
            raise NoProductError(f"oneDNN has no {self._precision} product on this processor")
        if status:
            raise RuntimeError(f"dnnl_{name}: expected status 0, found {status}")

    def _shape(self, rows: int, columns: int, order: int) -> ctypes.c_void_p:
        description = ctypes.c_void_p()
        sizes = (ctypes.c_int64 * 2)(rows, columns)
        self._do("memory_desc_create_with_tag", ctypes.byref(description), 2, sizes,
                 _DTYPES[self._precision], order)  # fmt: skip
        return description

    def _numbers(self, size: int) -> np.ndarray:
        """Returns `size` bytes of numbers in [1, 2)."""
        values = np.random.default_rng(0).random(-(-size // _BYTES[self._precision]), np.float32)
        values += 1
        if self._precision == "bf16":
            return (values.view(np.uint32) >> 16).astype(np.uint16)
        return values

    def __call__(self, m: int, k: int, n: int) -> Callable[[], None]:
        """Returns a function that multiplies [m, k] by [k, n] once.

        Raises:
            NoProductError: oneDNN does not support it on this processor.
        """
        sizes = ((m, k, _ROW_MAJOR), (k, n, _ANY), (m, n, _ROW_MAJOR))
        shapes = [self._shape(*size) for size in sizes]
        plan, primitive = ctypes.c_void_p(), ctypes.c_void_p()
        self._do("matmul_primitive_desc_create", ctypes.byref(plan), self._engine, shapes[0],
                 shapes[1], None, shapes[2], None)  # fmt: skip
        self._do("primitive_create", ctypes.byref(primitive), plan)
        arguments, held = (_Argument * 3)(), []
        for place, kind in enumerate((_SRC, _WEIGHTS, _DST)):
            description = ctypes.c_void_p(
                self._library.dnnl_primitive_desc_query_md(plan, _QUERY[kind], 0)
            )
            numbers = self._numbers(self._library.dnnl_memory_desc_get_size(description))
            memory = ctypes.c_void_p()
            self._do("memory_create", ctypes.byref(memory), description, self._engine,
                     ctypes.c_void_p(numbers.ctypes.data))  # fmt: skip
            arguments[place] = _Argument(kind, memory.value)
            held.append(numbers)

        def multiply(held: list[np.ndarray] = held) -> None:
            self._do("primitive_execute", primitive, self._stream, 3, arguments)
            self._do("stream_wait", self._stream)

        return multiply
