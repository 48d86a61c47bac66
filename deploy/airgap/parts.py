"""Packs a folder into numbered parts with checksums.

A bundle is a folder with:

    unpack.sh        checks, joins and unpacks
    start.tar.gz     the Python that unpacks the rest: minimal hosts have gzip, but not Zstandard
    bundle.000 ...   the rest: a Zstandard-compressed tar, split into parts
    MANIFEST         one fact per line; `part NAME BYTES SHA-256`
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

from deploy.airgap import BundleError

MIB = 2**20


class Splitter:
    """A writable file that is split into parts of equal size, with SHA-256 digests.

    Args:
        folder: output folder.
        name: the parts are `name.000`, `name.001`, ...
        part_bytes: size of each part except the last.

    Attributes:
        parts: [(name, bytes, SHA-256)] of the completed parts.
    """

    def __init__(self, folder: str | os.PathLike, name: str, part_bytes: int):
        self._folder, self._name, self._part_bytes = pathlib.Path(folder), name, part_bytes
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._written, self._total_digest = 0, hashlib.sha256()
        self.parts = []

    def write(self, data: bytes | memoryview) -> int:
        """Writes bytes of any length; returns their number."""
        data = memoryview(data).cast("B")
        length = len(data)
        self._total_digest.update(data)
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
        """Does nothing: parts are closed when full."""

    def close(self) -> None:
        """Completes the current part."""
        if self._file is not None:
            self._file.close()
            self.parts.append((self._part_name(), self._written, self._digest.hexdigest()))
            self._file = None

    def sha256(self) -> str:
        """Returns the digest of the concatenated parts."""
        return self._total_digest.hexdigest()

    def _part_name(self):
        return f"{self._name}.{len(self.parts):03d}"

    def _new_part(self):
        self._digest, self._written = hashlib.sha256(), 0
        return open(self._folder / self._part_name(), "wb")


def _anonymous(member):
    """Removes the owner from a tar member, so that equal trees give equal archives."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _add(archive, tree, relative):
    archive.add(tree / relative, arcname=str(relative), recursive=False, filter=_anonymous)


def members(tree: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the sorted relative paths of all files and folders; does not follow links."""
    tree, found = pathlib.Path(tree), []
    for root, folders, names in os.walk(tree):
        found += [pathlib.Path(root, name).relative_to(tree) for name in [*folders, *names]]
    return sorted(found)


def pack(
    tree: str | os.PathLike,
    folder: str | os.PathLike,
    in_start: Callable[[pathlib.Path], bool],
    facts: Mapping[str, Any],
    part_bytes: int,
    level: int = 10,
    threads: int = 2,
) -> list[tuple[str, int, str]]:
    """Packs a folder into parts and writes the manifest.

    Args:
        tree: the folder to pack.
        folder: an empty folder for the parts and MANIFEST.
        in_start: function (relative path) -> whether it goes into start.tar.gz.
        facts: {name: value} for the manifest; values are single words.
        part_bytes: largest size of a part.
        level: Zstandard level, 1 to 22.
        threads: number of threads that compress.

    Returns:
        [(name, bytes, SHA-256)] of the parts, start.tar.gz first.

    Raises:
        BundleError: start.tar.gz is larger than a part.
    """
    tree, folder = pathlib.Path(tree), pathlib.Path(folder)
    everything = members(tree)
    start = folder / "start.tar.gz"
    # mtime=0: the time of packing would change the digest.
    with open(start, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as stream, \
            tarfile.open(fileobj=stream, mode="w|") as archive:  # fmt: skip
        for relative in filter(in_start, everything):
            _add(archive, tree, relative)
    data = start.read_bytes()
    if len(data) > part_bytes:
        problem = f"expected at most {part_bytes} bytes, found {len(data)}; increase --part_mib"
        raise BundleError.of_path(
            start, problem, flag="part_mib", bound=part_bytes, found=len(data)
        )
    parts = [(start.name, len(data), hashlib.sha256(data).hexdigest())]
    splitter = Splitter(folder, "bundle", part_bytes)
    compressor = zstandard.ZstdCompressor(level=level, threads=threads)
    # zstandard's types require a full file; it uses only write, flush and close.
    output: Any = splitter
    with contextlib.closing(splitter), \
            compressor.stream_writer(output, closefd=False) as stream, \
            tarfile.open(fileobj=stream, mode="w|") as archive:  # fmt: skip
        for relative in everything:
            if not in_start(relative):
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
        BundleError: a value contains white space.
    """
    lines = []
    for name, value in facts.items():
        if len(str(value).split()) != 1:
            raise BundleError(f"{name}: expected one word, found {value!r}", found=value)
        lines.append(f"{name} {value}")
    lines += [f"part {name} {size} {digest}" for name, size, digest in parts]
    # With this line unpack.sh detects a truncated manifest.
    lines.append(f"parts {len(parts)}")
    (pathlib.Path(folder) / "MANIFEST").write_text("\n".join(lines) + "\n")
