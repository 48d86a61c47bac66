"""What preprocessing wrote in an output folder, so that it replaces nothing else.

`preprocess.json` in the folder lists its files. A file is listed before it has its name, with a
fingerprint by which one that somebody put in its place is told from it. Listed without one are
folders, and records that are still being written.
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
#: Records that are being written; never of use after a run.
PARTIAL = ".partial"
_FORMAT_VERSION = 1
#: Bytes at each end of a file that its fingerprint is made of, besides its size.
_ENDS = 1 << 16


_Fingerprint = Optional[str]


class _Manifest(TypedDict):
    format_version: Literal[1]
    complete: bool
    files: dict[str, _Fingerprint]


class OutputFolder:
    """The files of preprocessing in one folder."""

    def __init__(self, folder: str):
        """Reads the list of what is in `folder`, if there is one; writes nothing.

        Raises:
            OutputError: the list is damaged, or a file of that name is something else.
        """
        self._folder = folder
        self._complete, self._files = False, {}
        path = self._path(MANIFEST)
        if not os.path.lexists(path):
            return
        try:
            manifest = read_json(path, _Manifest)
        except OSError as error:
            raise OutputError(f"{path}: cannot be read: {error.strerror}") from error
        except StructureError as error:
            raise OutputError(str(error)) from error
        self._complete, self._files = manifest["complete"], manifest["files"]

    @property
    def complete(self) -> bool:
        """Whether the folder holds the whole result of a run."""
        return self._complete

    def check(self, names: Iterable[str]) -> None:
        """Raises `OutputError` if one of these files or folders is there and is not of this list.

        An empty folder is nobody's.
        """
        for name in names:
            path = self._path(name)
            if not os.path.lexists(path) or self._is_own(name):
                continue
            if os.path.isdir(path) and not os.path.islink(path) and not os.listdir(path):
                continue
            listed = "was changed after preprocess.py wrote it"
            what = listed if name in self._files else "was not written by preprocess.py"
            raise OutputError(
                f"{path}: {what}: it is not replaced; move or remove it, or choose another --output"
            )

    def begin(self, names: Iterable[str]) -> None:
        """Lists files and folders that are about to be written; there is no result meanwhile."""
        names = list(names)
        self.check(names)
        self._files.update(dict.fromkeys(names))
        self._complete = False
        self._write()

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[BinaryIO]:
        """A context that yields a binary file, which becomes the file `name` when the block ends.

        Raises:
            OutputError: that is somebody else's.
        """
        self.check([name])
        path = self._path(name)
        with naming_errors(path), replacing_name(path) as partial:
            with open(partial, "wb") as file:
                yield file
            self._list(name, partial)

    def publish(self, name: str) -> None:
        """Gives the finished file `name`.partial its name.

        Raises:
            OutputError: a file of that name is somebody else's.
        """
        self.check([name])
        path = self._path(name)
        self._list(name, path + PARTIAL)
        with naming_errors(self._folder):
            replace(path + PARTIAL, path)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there.

        Raises:
            OutputError: it is somebody else's.
        """
        self.check([name])
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._path(name))

    def finish(self) -> None:
        """Records that the result is complete, and removes what is partial."""
        for name in [name for name in self._files if name.endswith(PARTIAL)]:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._path(name))
            del self._files[name]
        self._complete = True
        self._write()

    def others(self, names: Iterable[str]) -> list[str]:
        """Returns the paths of this list that are there, without these names."""
        paths = [self._path(name) for name in sorted(set(self._files) - set(names))]
        return [path for path in paths if os.path.lexists(path)]

    def _path(self, name):
        return os.path.join(self._folder, name)

    def _is_own(self, name):
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
