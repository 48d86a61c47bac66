"""The destination of a split: a folder or a raw file. Replaces only files of this project."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from dataset import metadata, ownership
from dataset.columns import DatasetDescription
from dataset.encode import BOUNDARIES, Encoding
from dataset.errors import DatasetError
from storage import atomic
from storage.claim import Claim
from storage.digests import BlockDigest


class Destination:
    """A split's folder, or the file of the raw layout.

    Args:
        path: the folder or file.
        layout: its layout.
        describe: for a raw file, also write a metadata.json next to it if a table has several ids.

    Attributes:
        path: the folder or file.
        raw: whether the path is a raw file.
        folder: the folder that holds the split's files.
    """

    def __init__(self, path: str, layout: str, *, describe: bool = False):
        self.path = path
        self.raw = layout == "raw"
        if self.raw:
            self.folder, self._mark = os.path.split(os.path.abspath(path))
        else:
            self.folder, self._mark = path, metadata.FILE_NAME
        self._describe = describe and self.raw
        self._content = None
        self._names, self._owned = [], frozenset()

    def path_of(self, name: str) -> str:
        """Returns the path of a file of the encoding."""
        return self.path if self.raw else os.path.join(self.folder, name)

    def refuse_complete(self) -> None:
        """Raises `DatasetError` if the path holds a complete split of this project."""
        if self._is_complete():
            problem = "already exists; remove it, or give --overwrite to replace it"
            raise DatasetError.of_path(self.path_of(self._mark), problem, flag="overwrite")

    def claim(self) -> Claim:
        """Returns the claim to hold while the files are written."""
        if not self.raw:
            return Claim(self.folder, is_complete=self._is_complete)
        # For this file only: another process may write files next to it.
        return Claim(self.folder, marker=f".{self._mark}.incomplete", is_complete=self._is_complete)

    def take(self, claim: Claim, source: DatasetDescription, names: Sequence[str]) -> None:
        """Claims the named files of the encoding before any is written.

        Raises:
            DatasetError: a file of the source would be overwritten.
            storage.claim.ClaimError: a file exists that this project did not write.
        """
        self._names = [self._mark] if self.raw else [*names, self._mark]
        self._owned = self._own_files()
        taken = self._names if self.raw else {*self._names, *self._owned}
        self._refuse_source(source, taken)
        if self.raw:
            ownership.check_generator(self.folder)
        if self._describe:
            self._content = ownership.raw_metadata(source.vocab_sizes, source.bags)
            segments = source.label_column.segments if source.layout == "raw" else ()
            sources = [segment.path for segment in segments]
            ownership.check_description(self.path, self._content, sources)
        claim.take(taken, self._owned)

    def begin_replacing(self, claim: Claim) -> None:
        """Removes the record that the files are complete."""
        if self.raw:
            ownership.forget_raw(self.path_of(self._mark))
            if self._describe:
                ownership.remove_description(self.path, self._content)
        else:
            claim.remove([self._mark])

    def remove_superseded(self, claim: Claim) -> None:
        """Removes files of the replaced split that the new one does not have."""
        if not self.raw:
            claim.remove((self._owned | claim.leftovers) - set(self._names))

    def finish(
        self, source: DatasetDescription, encoding: Encoding, digests: Sequence[BlockDigest]
    ) -> None:
        """Writes the record that the files of `encoding`, with these digests, are complete."""
        if self.raw:
            path = os.path.join(self.folder, self._mark)
            if self._describe:
                ownership.write_description(path, self._content)
            ownership.record_raw(path, source.samples, source.attainable_auc)
            return
        columns = []
        for file, digest in zip(encoding.files, digests):
            if file.kind == BOUNDARIES:
                columns[-1]["offsets"] = {"file": file.name, "digest": digest.text()}
                continue
            entry: dict[str, Any] = {
                "kind": file.kind,
                "file": file.name,
                "dtype": file.dtype,
                "width": file.width,
                "digest": digest.text(),
            }
            if file.bags is not None and not file.bags.is_one_hot:
                entry["hotness"] = list(file.bags.hotness)
                entry["pooling"] = list(file.bags.pooling)
            columns.append(entry)
        content = metadata.build(
            encoding.layout,
            source.samples,
            source.vocab_sizes,
            encoding.dense_transform,
            columns,
            source.attainable_auc,
            encoding.applied_transform,
        )
        atomic.write_json(os.path.join(self.folder, self._mark), content)

    def _own_files(self):
        files = ownership.raw_files if self.raw else ownership.split_files
        return files(self.folder)

    def _is_complete(self):
        there = os.path.lexists(os.path.join(self.folder, self._mark))
        return there and self._mark in self._own_files()

    def _refuse_source(self, source, names):
        written = {os.path.realpath(os.path.join(self.folder, name)) for name in names}
        for column in source.columns:
            for segment in (*column.segments, *column.offsets):
                if os.path.realpath(segment.path) in written:
                    problem = "source and destination are the same; choose another one"
                    raise DatasetError.of_path(self.path, problem)
