"""Digests of files, texts and blocks, and the checksum file that `sha256sum -c` reads.

SHA-256 for complete files. XXH3 for files that are digested in blocks while they are written: it
detects accidents (a flipped bit, a lost page, swapped files), not forgeries, in an eighth of the
processor time. CRC-32 for the output of a run that was killed and is restarted.
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
#: Name of the digest that `BlockDigest` computes by default.
WRITTEN = "xxh3-128-blocks"
_SHA256_BLOCKS = "sha256-blocks"


def sha256_of(data: bytes | str) -> str:
    """Returns the SHA-256 of bytes, or of a text encoded as UTF-8, in hexadecimal."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def sha256_of_file(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a regular file in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path, buffering=0) as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def sampled_sha256(paths: Iterable[str], facts: str) -> str:
    """Returns a SHA-256 of files in hexadecimal, whose cost does not depend on their size.

    Digests `facts` and each file's name, size, first and last 64 KiB. It misses changes elsewhere
    in a file.

    Args:
        paths: regular files.
        facts: text to digest in addition.

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
        OSError: the file cannot be read.
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
        ValueError: the text is not what `checksum_text` writes.
    """
    digests = {}
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        match = _CHECKSUM_LINE.fullmatch(line[:-1]) if line.endswith("\n") else None
        if match is None:
            raise ValueError(f"line {number} is not a checksum: {line[:80]!r}")
        digests[match[2]] = match[1]
    if checksum_text(digests) != text:
        raise ValueError("expected sorted lines without duplicates")
    return digests


class BlockDigest:
    """A hash over the hashes of a file's successive blocks.

    Several threads may add blocks, in any order.

    Args:
        blocks: number of blocks; 0 if it is not known and one thread adds them in order.
        name: name of the digest (`block_digest_name`).
    """

    def __init__(self, blocks: int, name: str = WRITTEN):
        self._name, self._hash = name, _block_hash(name)
        self._digests = [b""] * blocks

    def add(self, block: int, data: np.ndarray) -> None:
        """Adds the bytes of one block, a contiguous array."""
        block_hash = self._hash()
        # `update` releases the interpreter lock; a constructor with data would hold it.
        block_hash.update(data)
        if block == len(self._digests):
            self._digests.append(b"")
        self._digests[block] = block_hash.digest()

    def text(self) -> str:
        """Returns "NAME:HASH"."""
        return f"{self._name}:{self._hash(b''.join(self._digests)).hexdigest()}"


def block_digest_name(text: str) -> str:
    """Returns the name in a text from `BlockDigest.text`.

    Raises:
        ValueError: this release does not support the digest.
    """
    name = text.partition(":")[0]
    if name not in (WRITTEN, _SHA256_BLOCKS):
        raise ValueError(f"digest: expected {WRITTEN} or {_SHA256_BLOCKS}, found {name!r:.40}")
    return name


def _block_hash(name: str) -> Callable[..., Any]:
    if name == _SHA256_BLOCKS:  # Earlier releases wrote it.
        return hashlib.sha256
    # Imported here: executors of a Spark cluster need only CRC-32 and may lack this package.
    import xxhash

    return xxhash.xxh3_128
