"""Empties the machine code of GPUs that a bundle is not for.

CUDA libraries hold each kernel once for every GPU generation, in containers ("fat binaries") of
entries: a header that names the generation, then the code. The driver reads the headers and loads
the entry that fits its GPU. Here the code of other generations is overwritten with zeros, which
compress to nothing; headers, sizes and places stay. PTX, the form that newer GPUs compile for
themselves, stays unless it is asked to go too.
"""

from __future__ import annotations

import collections
import mmap
import os
import struct
from collections.abc import Collection

# Container: magic, version, length of this header, bytes of all entries.
_CONTAINER = struct.Struct("<4sHHQ")
_MAGIC = b"\x50\xed\x55\xba"
# Entry: kind, flags, length of this header, bytes of code, six of others, generation (90 is sm_90).
_ENTRY = struct.Struct("<HHIQ12xI")
_PTX, _MACHINE_CODE = 1, 2
_KINDS = {_PTX, _MACHINE_CODE, 4, 8, 16}
_ZEROS = bytes(2**20)


class Unknown(RuntimeError):
    """A container has a layout that is not known here; nothing was changed."""


def entries(data: bytes | mmap.mmap) -> list[tuple[int, int, int, int]]:
    """Returns the entries of all containers in a library.

    Args:
        data: bytes or a map of a file.

    Returns:
        [(kind, generation, offset of the code, bytes of the code)].

    Raises:
        Unknown: a container's entries do not fill it.
    """
    found, place = [], data.find(_MAGIC)
    while place >= 0:
        _, version, header, size = _CONTAINER.unpack_from(data, place)
        end = place + header + size
        if version != 1 or header != _CONTAINER.size or end > len(data):
            # Four bytes that happen to be alike.
            place = data.find(_MAGIC, place + 1)
            continue
        entry = place + header
        while entry < end:
            if entry + _ENTRY.size > end:
                raise Unknown(f"an entry at byte {entry} is cut off by its container's end {end}")
            kind, _, length, code, generation = _ENTRY.unpack_from(data, entry)
            if kind not in _KINDS or length < _ENTRY.size or entry + length + code > end:
                raise Unknown(
                    f"the entry at byte {entry} has kind {kind}, a header of {length} and {code} "
                    f"bytes of code: expected kinds {sorted(_KINDS)} and an end before byte {end}"
                )
            found.append((kind, generation, entry + length, code))
            entry += length + code
        place = data.find(_MAGIC, end)
    return found


def prune(path: str | os.PathLike, keep: Collection[int], keep_ptx: bool = True) -> dict[int, int]:
    """Empties the machine code of all generations but some, in place.

    Args:
        path: of a library.
        keep: generations to keep, e.g. {80, 90}.
        keep_ptx: False empties PTX too: GPUs of other generations cannot run what is left.

    Returns:
        {generation: bytes emptied}.

    Raises:
        Unknown: the file holds a container of another layout; it was not changed.
    """
    emptied = collections.Counter()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for kind, generation, begin, size in entries(data):
            kept = keep_ptx if kind == _PTX else kind != _MACHINE_CODE or generation in keep
            if kept:
                continue
            for offset in range(begin, begin + size, len(_ZEROS)):
                length = min(len(_ZEROS), begin + size - offset)
                data[offset : offset + length] = _ZEROS[:length]
            emptied[generation] += size
        data.flush()
    return dict(emptied)
