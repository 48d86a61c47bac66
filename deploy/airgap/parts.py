"""Packs a folder into numbered parts with checksums.

A bundle is a folder of:

    unpack.sh        joins and checks
    start.tar.gz     the Python alone, by which the rest is unpacked: a bare host has gzip
    bundle.000 ...   the rest: one tar, compressed by Zstandard, cut into parts
    MANIFEST         one fact a line; `part NAME BYTES SHA-256`
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import pathlib
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

import zstandard

MIB = 2**20
DEFAULT_PART_BYTES = 60 * MIB


class Splitter:
    """A file to write to, cut into parts of one size; each part and the whole are hashed.

    Args:
        folder: where the parts go.
        name: parts are called `name.000`, `name.001` ...
        part_bytes: the size of each but the last.
    """

    def __init__(self, folder: str | os.PathLike, name: str, part_bytes: int):
        self._folder, self._name, self._part_bytes = pathlib.Path(folder), name, part_bytes
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._written, self._whole = 0, hashlib.sha256()
        self.parts = []

    def write(self, data: bytes | memoryview) -> int:
        """Takes bytes of any length; returns their number."""
        data = memoryview(data).cast("B")
        length = len(data)
        self._whole.update(data)
        while len(data):
            if self._file is None:
                self._file = self._new_part()
            piece = data[: self._part_bytes - self._written]
            self._file.write(piece)
            self._digest.update(piece)
            self._written += len(piece)
            data = data[len(piece) :]
            if self._written == self._part_bytes:
                self.close()
        return length

    def flush(self) -> None:
        """Does nothing: a part is closed when it is full."""

    def close(self) -> None:
        """Ends the last part."""
        if self._file is not None:
            self._file.close()
            self.parts.append((self._part_name(), self._written, self._digest.hexdigest()))
            self._file = None

    def sha256(self) -> str:
        """Returns the digest of all parts joined."""
        return self._whole.hexdigest()

    def _part_name(self):
        return f"{self._name}.{len(self.parts):03d}"

    def _new_part(self):
        self._digest, self._written = hashlib.sha256(), 0
        return open(self._folder / self._part_name(), "wb")  # closed when it is full


def _anonymous(member):
    """A tar member without the owner's names: two builds of the same tree give the same bytes."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _add(archive, tree, relative):
    archive.add(tree / relative, arcname=str(relative), recursive=False, filter=_anonymous)


def members(tree: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the relative paths of all that is below a folder, sorted; links are not followed."""
    tree, found = pathlib.Path(tree), []
    for root, folders, names in os.walk(tree):
        found += [pathlib.Path(root, name).relative_to(tree) for name in [*folders, *names]]
    return sorted(found)


def pack(
    tree: str | os.PathLike,
    folder: str | os.PathLike,
    first: Callable[[pathlib.Path], bool],
    facts: Mapping[str, Any],
    part_bytes: int = DEFAULT_PART_BYTES,
    level: int = 10,
    threads: int = 2,
) -> list[tuple[str, int, str]]:
    """Packs a folder.

    Args:
        tree: the folder to pack.
        folder: an empty folder for the parts and MANIFEST.
        first: function (relative path) -> whether it goes into start.tar.gz.
        facts: {name: value} for the manifest; values are single words.
        part_bytes: the largest part.
        level: of Zstandard, 1 to 22.
        threads: that compress.

    Returns:
        [(name, bytes, SHA-256)] of the parts, start.tar.gz first.

    Raises:
        ValueError: start.tar.gz is larger than a part.
    """
    tree, folder = pathlib.Path(tree), pathlib.Path(folder)
    everything = members(tree)
    start = folder / "start.tar.gz"
    # mtime=0: gzip's header would carry the time of packing.
    with open(start, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as stream, \
            tarfile.open(fileobj=stream, mode="w|") as archive:  # fmt: skip
        for relative in filter(first, everything):
            _add(archive, tree, relative)
    data = start.read_bytes()
    if len(data) > part_bytes:
        raise ValueError(f"{start} has {len(data)} bytes; a part has at most {part_bytes}")
    parts = [(start.name, len(data), hashlib.sha256(data).hexdigest())]
    splitter = Splitter(folder, "bundle", part_bytes)
    compressor = zstandard.ZstdCompressor(level=level, threads=threads)
    # Typed as a whole file; it needs write, flush and close alone.
    output: Any = splitter
    with contextlib.closing(splitter), \
            compressor.stream_writer(output, closefd=False) as stream, \
            tarfile.open(fileobj=stream, mode="w|") as archive:  # fmt: skip
        for relative in everything:
            if not first(relative):
                _add(archive, tree, relative)
    parts += splitter.parts
    total = sum((tree / relative).lstat().st_size for relative in everything)
    write_manifest(folder, {**facts, "unpacked_bytes": total, "whole": splitter.sha256()}, parts)
    return parts


def write_manifest(
    folder: str | os.PathLike, facts: Mapping[str, Any], parts: Sequence[tuple[str, int, str]]
) -> None:
    """Writes MANIFEST: a line `name value` for each fact, then the parts.

    Raises:
        ValueError: a value has white space in it.
    """
    lines = []
    for name, value in facts.items():
        if len(str(value).split()) != 1:
            raise ValueError(f"the fact {name} must be one word, found {value!r}")
        lines.append(f"{name} {value}")
    lines += [f"part {name} {size} {digest}" for name, size, digest in parts]
    # The last line tells unpack.sh that none before it is lost.
    lines.append(f"parts {len(parts)}")
    (pathlib.Path(folder) / "MANIFEST").write_text("\n".join(lines) + "\n")
