"""NVTX ranges around parts of a graph, and around Python code.

An attached tool, e.g. `nsys profile`, records the ranges. Without one, `start` and `end` add no op
to a graph, and `span` does nothing. All are process ranges in the domain "dlrm", because TensorFlow
may start a range on one thread and end it on another.

In a graph a range starts when its inputs are ready and ends when its outputs are. On a GPU it
covers the kernel launches: the kernels may still run when it ends.

    mark, rows = ranges.start("exchange", rows)
    vectors = ranges.end(mark, exchange(rows))

The ops order only the tensors that they forward, and TensorFlow prunes an op with unused outputs.
They have no gradient: keep them outside `tf.GradientTape` and XLA-compiled functions.
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

# Graph collection of range ends that no tensor waits for.
_ENDS = "dlrm_nvtx_ends"
# A tensor or a structure of them.
_Tensors = TypeVar("_Tensors")
# The environment variables that select an NVTX tool; nsys sets the second.
_TOOL_VARIABLES = ("NVTX_INJECTION64_PATH", "NSYS_PROFILING_SESSION_ID")


@dataclasses.dataclass(frozen=True)
class Mark:
    """A started range.

    Attributes:
        number: int64 scalar tensor, the range's number.
        operations_before: operations in the graph when the range was started; 0 in eager mode.
    """

    number: tf.Tensor
    operations_before: int


@functools.cache
def is_tool_attached() -> bool:
    """Returns whether a tool records ranges. Checked once per process."""
    native = _native()
    return native is not None and bool(native.dlrm_nvtx_listens())


def is_built() -> bool:
    """Returns whether the op library is built with NVTX's headers."""
    native = _native()
    return native is not None and bool(native.dlrm_nvtx_is_built())


def explain_missing_ranges() -> str | None:
    """Returns a line on why a requested tool records no ranges, or None."""
    variable = next((name for name in _TOOL_VARIABLES if os.environ.get(name)), None)
    if variable is None:
        return None
    if _native() is None:
        return f"no NVTX ranges: {variable} is set, but the native op library is not built"
    if not is_built():
        return (
            f"no NVTX ranges: {variable} is set, but the native op library was built without "
            "nvtx3/nvToolsExt.h; install a CUDA toolkit or nvidia-nvtx-cu12 and rebuild it"
        )
    # dlopen searches the library path for a name without a slash.
    tool = os.environ.get(_TOOL_VARIABLES[0], "")
    if "/" in tool and not os.path.isfile(tool):
        return f"no NVTX ranges: {_TOOL_VARIABLES[0]}={tool}: no such file"
    return None


def start(name: str, values: _Tensors) -> tuple[Mark | None, _Tensors]:
    """Starts a range when all of the tensors are ready.

    Args:
        name: name of the range, ASCII.
        values: a tensor or a structure of them, of any types, on any one device.

    Returns:
        (a mark for `end` or `end_effects`, the same values). Operations within the range use the
        returned values. The mark is None if no tool is attached.
    """
    if not is_tool_attached():
        return None, values
    before = 0 if tf.executing_eagerly() else len(_operations())
    same, number = loader.load().dlrm_nvtx_range_start(values=_flat(values), label=name)
    return Mark(number, before), _packed(values, same)


def end(mark: Mark | None, values: _Tensors) -> _Tensors:
    """Ends a range when all of the tensors are ready.

    Args:
        mark: from `start`.
        values: as for `start`.

    Returns:
        The same values, for operations that wait for the range's end. Operations that need not
        wait for all of them use the originals.
    """
    if mark is None:
        return values
    same, _ = loader.load().dlrm_nvtx_range_end(values=_flat(values), range=mark.number)
    return _packed(values, same)


def end_effects(mark: Mark | None) -> None:
    """Ends a range when all stateful operations since its start (e.g. assignments) have finished.

    In a graph nothing waits for this end: pass the graph's result to `settle`.

    Args:
        mark: from `start`.
    """
    if mark is None:
        return
    if tf.executing_eagerly():
        end(mark, ())
        return
    added = _operations()[mark.operations_before :]
    with tf.control_dependencies([op for op in added if op.op_def.is_stateful]):
        _, over = loader.load().dlrm_nvtx_range_end(values=[], range=mark.number)
    tf.compat.v1.get_default_graph().add_to_collection(_ENDS, over)


def settle(tensor: tf.Tensor) -> tf.Tensor:
    """Returns the tensor, ready when all ranges ended by `end_effects` in this graph have ended."""
    if tf.executing_eagerly():
        return tensor
    ends = tf.compat.v1.get_default_graph().get_collection(_ENDS)
    return loader.load().dlrm_nvtx_ranges_over(value=tensor, over=ends) if ends else tensor


@contextlib.contextmanager
def span(name: str) -> Iterator[None]:
    """Returns a context manager whose body is a range.

    Args:
        name: name of the range, ASCII.
    """
    native = _native() if is_tool_attached() else None
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


def _operations() -> list[tf.Operation]:
    return tf.compat.v1.get_default_graph().get_operations()


def _flat(values: Any) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(value) for value in tf.nest.flatten(values)]


def _packed(values: _Tensors, same: Sequence[tf.Tensor]) -> _Tensors:
    return tf.nest.pack_sequence_as(values, same)
