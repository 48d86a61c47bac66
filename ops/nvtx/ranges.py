"""NVTX ranges around parts of a graph, and around Python code.

They exist only while a tool records them, as under `nsys profile`; otherwise a graph gets no
additional op, and `span` does nothing. All of them are ranges of the process in the
domain "dlrm": TensorFlow may start one on one thread and end it on another.

In a graph a range starts when its part's inputs are ready and ends when its outputs are. On a GPU
that covers the launches: the kernels may still run when it ends.

    mark, rows = ranges.start("exchange", rows)
    vectors = ranges.end(mark, exchange(rows))

The ops order only the tensors that they pass on, and an op with unused outputs is pruned. They have
no gradient: keep them outside of a `tf.GradientTape` and of functions that XLA compiles.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from ops import loader

# Collection of a graph: the ends that no tensor waits for.
_ENDS = "dlrm_nvtx_ends"
# A tensor or a structure of them.
_Tensors = TypeVar("_Tensors")
# Set to select NVTX's tool, and by nsys besides.
_ASKED_BY = ("NVTX_INJECTION64_PATH", "NSYS_PROFILING_SESSION_ID")


@dataclasses.dataclass(frozen=True)
class Mark:
    """A range that was started in a graph or, eagerly, for real.

    Attributes:
        number: int64 scalar tensor, the range's.
        before: how many operations the graph had then; 0 where there is no graph.
    """

    number: tf.Tensor
    before: int


@functools.cache
def listening() -> bool:
    """Returns whether a tool records ranges. The first answer holds for the whole process."""
    native = _native()
    return native is not None and bool(native.dlrm_nvtx_listens())


def is_built() -> bool:
    """Returns whether the op library is built, with NVTX's headers."""
    native = _native()
    return native is not None and bool(native.dlrm_nvtx_is_built())


def unheard() -> str | None:
    """Returns a line on why an active tool gets no ranges, or None."""
    asked = next((name for name in _ASKED_BY if os.environ.get(name)), None)
    if asked is None:
        return None
    if _native() is None:
        return f"{asked} is set, but there are no NVTX ranges without the native op library"
    if not is_built():
        return (
            f"{asked} is set, but the native op library was built without nvtx3/nvToolsExt.h (of a "
            "CUDA toolkit, or the package nvidia-nvtx-cu12): there are no NVTX ranges"
        )
    # A name without a slash is looked for where libraries are.
    tool = os.environ.get(_ASKED_BY[0], "")
    if "/" in tool and not os.path.isfile(tool):
        return f"{_ASKED_BY[0]}={tool}: there is no such file, and so no tool for NVTX ranges"
    return None


def start(name: str, values: _Tensors) -> tuple[Mark | None, _Tensors]:
    """Starts a range when all of the tensors are ready.

    Args:
        name: of the range, ASCII.
        values: a tensor or a structure of them, of any types, on any one device.

    Returns:
        (a mark for `end` or `end_effects`, the same values): operations within the range take
        the latter. The mark is None if no tool records ranges.
    """
    if not listening():
        return None, values
    before = 0 if tf.executing_eagerly() else _operations()
    same, number = loader.load().dlrm_nvtx_range_start(values=_flat(values), label=name)
    return Mark(number, before), _packed(values, same)


def end(mark: Mark | None, values: _Tensors) -> _Tensors:
    """Ends a range when all of the tensors are ready.

    Args:
        mark: from `start`.
        values: as for `start`.

    Returns:
        The same values: operations after the range take them; those that need not wait for all of
        them take the originals.
    """
    if mark is None:
        return values
    same, _ = loader.load().dlrm_nvtx_range_end(values=_flat(values), range=mark.number)
    return _packed(values, same)


def end_effects(mark: Mark | None) -> None:
    """Ends a range when all stateful operations since its start, such as assignments, are done.

    In a graph nothing waits for that end: pass the graph's result to `settle`.

    Args:
        mark: from `start`.
    """
    if mark is None:
        return
    if tf.executing_eagerly():
        end(mark, ())
        return
    graph = tf.compat.v1.get_default_graph()
    added = graph.get_operations()[mark.before :]
    with tf.control_dependencies([op for op in added if op.op_def.is_stateful]):
        _, over = loader.load().dlrm_nvtx_range_end(values=[], range=mark.number)
    graph.add_to_collection(_ENDS, over)


def settle(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensor, ready when all ranges of `end_effects` in this graph have ended."""
    if tf.executing_eagerly():
        return tensor
    ends = tf.compat.v1.get_default_graph().get_collection(_ENDS)
    return loader.load().dlrm_nvtx_ranges_over(value=tensor, over=ends) if ends else tensor


@contextlib.contextmanager
def span(name: str) -> Iterator[None]:
    """A context whose body is a range.

    Args:
        name: of the range, ASCII.
    """
    native = _native() if listening() else None
    if native is None:
        yield
        return
    number = native.dlrm_nvtx_start(name.encode("ascii"))
    try:
        yield
    finally:
        native.dlrm_nvtx_end(number)


@functools.cache
def _native() -> ctypes.CDLL | None:
    """Returns the op library as a ctypes object, or None if it is not built."""
    try:
        loader.load()
    except loader.LibraryNotBuiltError:
        return None
    native = ctypes.CDLL(str(loader.path()))
    native.dlrm_nvtx_start.argtypes = [ctypes.c_char_p]
    native.dlrm_nvtx_start.restype = ctypes.c_uint64
    native.dlrm_nvtx_end.argtypes = [ctypes.c_uint64]
    native.dlrm_nvtx_end.restype = None
    return native


def _operations() -> int:
    return len(tf.compat.v1.get_default_graph().get_operations())


def _flat(values: Any) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(value) for value in tf.nest.flatten(values)]


def _packed(values: _Tensors, same: Sequence[tf.Tensor]) -> _Tensors:
    return tf.nest.pack_sequence_as(values, same)
