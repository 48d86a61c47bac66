"""NVTX ranges around parts of a graph, and around Python code.

They are there only where a tool listens, as under `nsys profile`; otherwise a graph has no op more
than it would have without, and `span` does nothing. All of them are ranges of the process in the
domain "dlrm": TensorFlow may start one on one thread and end it on another.

In a graph a range starts when its part's inputs are there and ends when its outputs are. On a GPU
that covers the launches: the kernels may still run when it ends.

    mark, rows = ranges.start("exchange", rows)
    vectors = ranges.end(mark, exchange(rows))

The ops order nothing but what they hand on, and one whose outputs nobody needs is left out. They
have no gradient: keep them outside of a `tf.GradientTape`, and of what XLA compiles.
"""

import contextlib
import ctypes
import dataclasses
import functools
import os

import tensorflow as tf

from ops import loader

# Of a graph: the ends that no tensor waits for.
_ENDS = "dlrm_nvtx_ends"
# What tells NVTX which tool to load, and what nsys sets besides.
_ASKED_BY = ("NVTX_INJECTION64_PATH", "NSYS_PROFILING_SESSION_ID")


@dataclasses.dataclass(frozen=True)
class Mark:
    """A range that was started in a graph or, eagerly, for real.

    Attributes:
        number: int64 scalar tensor, the range's.
        before: how many operations the graph had then; 0 where there is no graph.
    """

    number: "tf.Tensor"
    before: int


@functools.cache
def listening():
    """Tells whether a tool takes ranges. What it says first holds for the whole process."""
    native = _native()
    return native is not None and bool(native.dlrm_nvtx_listens())


def is_built():
    """Tells whether the op library is there and was built with NVTX's headers."""
    return _native() is not None and bool(_native().dlrm_nvtx_is_built())


def unheard():
    """Returns why a tool that seems to be there gets no ranges, in one line, or None."""
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


def start(name, values):
    """Starts a range when all of the tensors are there.

    Args:
        name: of the range, ASCII.
        values: a tensor or a structure of them, of any types, on any one device.

    Returns:
        (a mark for `end` or `end_effects`, the same values): what is to come within the range takes
        the latter. The mark is None where no tool listens.
    """
    if not listening():
        return None, values
    before = 0 if tf.executing_eagerly() else _operations()
    same, number = loader.load().dlrm_nvtx_range_start(values=_flat(values), label=name)
    return Mark(number, before), _packed(values, same)


def end(mark, values):
    """Ends a range when all of the tensors are there.

    Args:
        mark: from `start`.
        values: as for `start`.

    Returns:
        The same values: what is to come after the range takes them, what need not wait for all of
        them takes the originals.
    """
    if mark is None:
        return values
    same, _ = loader.load().dlrm_nvtx_range_end(values=_flat(values), range=mark.number)
    return _packed(values, same)


def end_effects(mark):
    """Ends a range when all is done that was added since its start and has an effect.

    Such as assigning variables. In a graph nothing waits for that end: give what the graph returns
    to `settle`.

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


def settle(tensor):
    """Returns the tensor, there when all ranges are over that `end_effects` ends in this graph."""
    if tf.executing_eagerly():
        return tensor
    ends = tf.compat.v1.get_default_graph().get_collection(_ENDS)
    return loader.load().dlrm_nvtx_ranges_over(value=tensor, over=ends) if ends else tensor


@contextlib.contextmanager
def span(name):
    """Makes the body of a `with` statement a range.

    Args:
        name: of the range, ASCII.
    """
    if not listening():
        yield
        return
    number = _native().dlrm_nvtx_start(name.encode("ascii"))
    try:
        yield
    finally:
        _native().dlrm_nvtx_end(number)


@functools.cache
def _native():
    """Returns the op library as what C calls, or None where it is not built."""
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


def _operations():
    return len(tf.compat.v1.get_default_graph().get_operations())


def _flat(values):
    return [tf.convert_to_tensor(value) for value in tf.nest.flatten(values)]


def _packed(values, same):
    return tf.nest.pack_sequence_as(values, same)
