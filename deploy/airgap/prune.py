"""Zeroes the machine code of GPU generations that a bundle does not support.

CUDA libraries contain each kernel once per GPU generation, in containers ("fat binaries") of
entries: a header that names the generation, then the code. The driver reads the headers and loads
the entry for its GPU. This module overwrites the code of other generations with zeros, which
compress well; headers, sizes and offsets do not change. PTX, which the driver compiles for newer
GPUs, is kept by default.
"""

from __future__ import annotations

import collections
import mmap
import os
import struct
from collections.abc import Collection

from deploy.airgap import BundleError

# Container: magic, version, length of this header, total bytes of the entries.
_CONTAINER = struct.Struct("<4sHHQ")
_MAGIC = b"\x50\xed\x55\xba"
# Entry: kind, flags, length of this header, bytes of code, other fields, generation (90 is sm_90).
_ENTRY = struct.Struct("<HHIQ12xI")
_PTX, _MACHINE_CODE = 1, 2
_KINDS = {_PTX, _MACHINE_CODE, 4, 8, 16}
_ZEROS = bytes(2**20)


class UnknownLayoutError(BundleError):
    """A container has an unknown layout; the file was not changed."""


def entries(data: bytes | mmap.mmap) -> list[tuple[int, int, int, int]]:
    """Returns the entries of all containers in a library's content.

    Returns:
        [(kind, generation, offset of the code, bytes of the code)].

    Raises:
        UnknownLayoutError: a container's entries do not fill it.
    """
    found, place = [], data.find(_MAGIC)
    while place >= 0:
        _, version, header, size = _CONTAINER.unpack_from(data, place)
        end = place + header + size
        if version != 1 or header != _CONTAINER.size or end > len(data):
            # Other data that contains the magic number by chance.
            place = data.find(_MAGIC, place + 1)
            continue
        entry = place + header
        while entry < end:
            if entry + _ENTRY.size > end:
                raise UnknownLayoutError(
                    f"the entry at byte {entry} exceeds its container, which ends at byte {end}"
                )
            kind, _, length, code, generation = _ENTRY.unpack_from(data, entry)
            if kind not in _KINDS or length < _ENTRY.size or entry + length + code > end:
                raise UnknownLayoutError(
                    f"the entry at byte {entry}: expected kind {sorted(_KINDS)} and an end up to "
                    f"byte {end}, found kind {kind}, header of {length}, code of {code} bytes",
                    bound=end, found=(kind, length, code),
                )  # fmt: skip
            found.append((kind, generation, entry + length, code))
            entry += length + code
        place = data.find(_MAGIC, end)
    return found


def prune(path: str | os.PathLike, keep: Collection[int], keep_ptx: bool = True) -> dict[int, int]:
    """Zeroes the machine code of all GPU generations except some, in place.

    Args:
        path: a library.
        keep: generations to keep, such as {80, 90}.
        keep_ptx: False also zeroes PTX, so that no other generation can run the kernels.

    Returns:
        {generation: bytes zeroed}.

    Raises:
        UnknownLayoutError: a container has an unknown layout; the file was not changed.
    """
    zeroed = collections.Counter()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for kind, generation, begin, size in entries(data):
            kept = keep_ptx if kind == _PTX else kind != _MACHINE_CODE or generation in keep
            if kept:
                continue
            for offset in range(begin, begin + size, len(_ZEROS)):
                length = min(len(_ZEROS), begin + size - offset)
                data[offset : offset + length] = _ZEROS[:length]
            zeroed[generation] += size
        data.flush()
    return dict(zeroed)
