"""Records which files of an output folder preprocessing wrote, so that it replaces no others.

`preprocess.json` in the folder lists the files. A file is listed, with a fingerprint, before it
gets its name, so that a file which somebody puts in its place is recognised. Folders, and records
that are still being written, have no fingerprint.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal, Optional, TypedDict

from dataset.preprocessing.errors import OutputError
from storage.atomic import replace, replacing_name, write_json
from storage.digests import crc32_of_file
from storage.paths import naming_errors
from storage.structured import StructureError, read_json

MANIFEST = "preprocess.json"
#: Suffix of records that are being written.
PARTIAL = ".partial"
_FORMAT_VERSION = 1
#: A fingerprint is made of a file's size and this many bytes at each of its ends.
_ENDS = 1 << 16


_Fingerprint = Optional[str]


class _Manifest(TypedDict):
    format_version: Literal[1]
    complete: bool
    files: dict[str, _Fingerprint]


class OutputFolder:
    """The files of one folder that preprocessing wrote."""

    def __init__(self, folder: str):
        """Reads the list of files in `folder`, if there is one; writes nothing.

        Raises:
            OutputError: the list is damaged or unreadable.
        """
        self._folder = folder
        self._complete, self._files = False, {}
        path = self._path(MANIFEST)
        if not os.path.lexists(path):
            return
        try:
            manifest = read_json(path, _Manifest)
        except OSError as error:
            raise OutputError.of_path(path, f"cannot be read: {error.strerror}") from error
        except StructureError as error:
            raise OutputError.of(error) from error
        self._complete, self._files = manifest["complete"], manifest["files"]

    @property
    def complete(self) -> bool:
        """Whether the folder holds the complete result of a run."""
        return self._complete

    def check(self, names: Iterable[str]) -> None:
        """Raises `OutputError` if one of these files or folders exists and is not on the list.

        Empty folders pass.
        """
        for name in names:
            path = self._path(name)
            if not os.path.lexists(path) or self._is_listed(name):
                continue
            if os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path):
                continue
            changed = "was changed after preprocess.py wrote it"
            reason = changed if name in self._files else "was not written by preprocess.py"
            problem = f"{reason}: not replaced; move or remove it, or try another --output"
            raise OutputError.of_path(path, problem, flag="output")

    def begin(self, names: Iterable[str]) -> None:
        """Lists files and folders that the run will write; marks the folder incomplete."""
        names = list(names)
        self.check(names)
        self._files.update(dict.fromkeys(names))
        self._complete = False
        self._write()

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[BinaryIO]:
        """A context that yields a binary file, which becomes the file `name` when the block ends.

        Raises:
            OutputError: preprocessing did not write the existing file `name`.
        """
        self.check([name])
        path = self._path(name)
        with naming_errors(path), replacing_name(path) as partial:
            with open(partial, "wb") as file:
                yield file
            self._list(name, partial)

    def publish(self, name: str) -> None:
        """Renames the finished file `name`.partial to `name`.

        Raises:
            OutputError: preprocessing did not write the existing file `name`.
        """
        self.check([name])
        path = self._path(name)
        self._list(name, path + PARTIAL)
        with naming_errors(self._folder):
            replace(path + PARTIAL, path)

    def remove(self, name: str) -> None:
        """Removes a file, if it exists.

        Raises:
            OutputError: preprocessing did not write it.
        """
        self.check([name])
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._path(name))

    def finish(self) -> None:
        """Marks the folder complete, and removes partial files."""
        for name in [name for name in self._files if name.endswith(PARTIAL)]:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._path(name))
            del self._files[name]
        self._complete = True
        self._write()

    def others(self, names: Iterable[str]) -> list[str]:
        """Returns the existing paths on the list, except these names."""
        paths = [self._path(name) for name in sorted(set(self._files) - set(names))]
        return [path for path in paths if os.path.lexists(path)]

    def _path(self, name):
        return os.path.join(self._folder, name)

    def _is_listed(self, name):
        if name not in self._files:
            return False
        expected = self._files[name]
        try:
            return expected is None or _fingerprint(self._path(name)) == expected
        except OSError:
            return False

    def _list(self, name, path):
        self._files[name] = _fingerprint(path)
        self._write()

    def _write(self):
        manifest = {
            "format_version": _FORMAT_VERSION,
            "complete": self._complete,
            "files": dict(sorted(self._files.items())),
        }
        write_json(self._path(MANIFEST), manifest)


def _fingerprint(path):
    size = os.stat(path).st_size
    ends = crc32_of_file(path, 0, _ENDS), crc32_of_file(path, max(0, size - _ENDS), _ENDS)
    return f"{size} bytes, crc32 of both ends {ends[0]:08x} {ends[1]:08x}"
