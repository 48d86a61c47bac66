"""Arrays that a thread uses again for every chunk, at page boundaries."""

import contextlib
import math
import mmap
import threading

import numpy as np


class ThreadBuffers:
    """Arrays by key, a thread's own: the same memory each time a thread asks for the same key.

    New arrays for every chunk would cost more in page faults than reading does. Page boundaries
    let `dataset.direct_file` write them past the page cache.
    """

    def __init__(self):
        self._known = threading.local()

    def array(self, key, shape, dtype):
        """Returns an array of `shape`, holding whatever this thread left in it.

        Args:
            key: what it is for: a hashable value.
            shape: its dimensions.
            dtype: its dtype.
        """
        dtype = np.dtype(dtype)
        count = math.prod(shape) if isinstance(shape, tuple) else int(shape)
        known = self._known.__dict__.setdefault("arrays", {})
        memory = known.get(key)
        if memory is None or len(memory) < count * dtype.itemsize:
            memory = known[key] = pages(count * dtype.itemsize)
        return np.frombuffer(memory, dtype, count).reshape(shape)


def pages(size):
    """Returns new private memory of at least `size` bytes, in huge pages where there are some."""
    memory = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
