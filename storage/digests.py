"""Digests of files, texts and blocks, and the checksum file that `sha256sum -c` reads.

SHA-256 where a file is checked as a whole. XXH3 for what is digested in blocks while it is
written: it detects accidents (a flipped bit, a lost page, files swapped), not forgeries, in an
eighth of the processor time. CRC-32 for what a killed run has written already.
"""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from storage.regular import open_regular

_READ_BYTES = 1 << 22
#: Bytes read from each end of a file for a sampled digest.
_SAMPLED_BYTES = 65536
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64})  ([^/\0\n][^\0\n]*)")
#: What `BlockDigest` writes.
WRITTEN = "xxh3-128-blocks"
_SHA256_BLOCKS = "sha256-blocks"


def sha256_of(data: bytes | str) -> str:
    """Returns the SHA-256 of bytes, or of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def sha256_of_file(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a regular file in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path, buffering=0) as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def sampled_sha256(paths: Iterable[str], facts: str) -> str:
    """Returns a SHA-256 of files that is cheap at any size, in hexadecimal.

    Digests `facts` and each file's name, size and both ends: different for any two lists of files
    that are not made to deceive.

    Args:
        paths: regular files.
        facts: what else the digest stands for.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256(facts.encode())
    for path in paths:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{os.path.basename(path)}:{size}".encode())
            digest.update(file.read(_SAMPLED_BYTES))
            file.seek(max(0, size - _SAMPLED_BYTES))
            digest.update(file.read(_SAMPLED_BYTES))
    return digest.hexdigest()


def crc32_of_file(path: str | os.PathLike, offset: int = 0, length: int | None = None) -> int:
    """Returns the CRC-32 of `length` bytes (default: all) of a regular file from `offset`.

    Raises:
        OSError: it cannot be read.
    """
    crc = 0
    with open_regular(path, buffering=0) as file:
        file.seek(offset)
        left = os.fstat(file.fileno()).st_size - offset if length is None else length
        while left > 0:
            piece = file.read(min(_READ_BYTES, left))
            if not piece:
                break
            crc = zlib.crc32(piece, crc)
            left -= len(piece)
    return crc


def checksum_text(digests: Mapping[str, str]) -> str:
    """Returns the content of a checksum file.

    Args:
        digests: {name: SHA-256 in hexadecimal}.
    """
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def parse_checksums(text: str) -> dict[str, str]:
    """Returns {name: SHA-256} of a checksum file's content.

    Raises:
        ValueError: it is not what `checksum_text` writes.
    """
    digests = {}
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        match = _CHECKSUM_LINE.fullmatch(line[:-1]) if line.endswith("\n") else None
        if match is None:
            raise ValueError(f"line {number} is no checksum: {line[:80]!r}")
        digests[match[2]] = match[1]
    if checksum_text(digests) != text:
        raise ValueError("its lines are not in order, or repeat")
    return digests


class BlockDigest:
    """A hash over the hashes of a file's successive blocks.

    Blocks may be added in any order, from several threads, so that they can be worked on side by
    side.
    """

    def __init__(self, blocks: int, name: str = WRITTEN):
        """Takes the number of blocks and the digest's name (`block_digest_name`)."""
        self._name, self._hash = name, _block_hash(name)
        self._digests = [b""] * blocks

    def add(self, block: int, data: np.ndarray) -> None:
        """Adds the bytes of one block, a contiguous array."""
        block_hash = self._hash()
        # Other threads go on meanwhile; a hash of all in one call would hold them up.
        block_hash.update(data)
        self._digests[block] = block_hash.digest()

    def text(self) -> str:
        """Returns the digest as a text that begins with its name."""
        return f"{self._name}:{self._hash(b''.join(self._digests)).hexdigest()}"


def block_digest_name(text: str) -> str:
    """Returns the name in a `BlockDigest.text`.

    Raises:
        ValueError: this release does not know it.
    """
    name = text.partition(":")[0]
    if name not in (WRITTEN, _SHA256_BLOCKS):
        raise ValueError(f"digest {text!r:.40}: this release reads {WRITTEN} and {_SHA256_BLOCKS}")
    return name


def _block_hash(name: str) -> Callable[..., Any]:
    if name == _SHA256_BLOCKS:  # Was written before.
        return hashlib.sha256
    # Not above: executors of a Spark cluster take CRC-32s alone, and may not have it.
    import xxhash

    return xxhash.xxh3_128
