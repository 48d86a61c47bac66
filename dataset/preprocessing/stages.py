"""The journal of what is finished: a stage is committed once its outputs are on disk.

Each stage is one small JSON file with what it was made from (its key), its result, and size and
CRC-32 of its outputs. A stage counts only while its key is the one asked for and its outputs still
have these checksums; otherwise it is done again. So a killed run goes on where it was, and a
changed input or option redoes what depends on it and nothing else.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypedDict

from dataset.preprocessing.errors import OptionError, OutputError
from storage.atomic import write_json
from storage.digests import crc32_of_file
from storage.paths import naming_errors
from storage.regular import open_regular, open_regular_fd
from storage.structured import StructureError, check_shape, read_json

#: What is in the lock of a work folder, so that nobody else's folder is taken for one.
_MARK = b"preprocess.py works in this folder\n"


class Output(NamedTuple):
    """Bytes that a stage wrote: a whole file, or a region of one."""

    path: str
    offset: int
    length: int
    crc32: int

    @classmethod
    def whole(cls, path: str, crc32: int | None = None) -> Output:
        """Returns the Output for all of a file, reading it if its checksum is not given."""
        crc32 = crc32_of_file(path) if crc32 is None else crc32
        return cls(path, 0, os.path.getsize(path), crc32)

    def intact(self) -> bool:
        """Tells whether the file still holds these bytes."""
        try:
            if os.path.getsize(self.path) < self.offset + self.length:
                return False
            return crc32_of_file(self.path, self.offset, self.length) == self.crc32
        except OSError:
            return False


class _Stage(TypedDict):
    key: dict[str, Any]
    outputs: list[tuple[str, int, int, int]]
    result: dict[str, Any]


class Stages:
    """The committed stages below one folder."""

    def __init__(self, folder: str, jobs: int = 1):
        """Opens the journal in `folder`; `jobs` threads check outputs."""
        self._folder = folder
        self._jobs = jobs
        os.makedirs(folder, exist_ok=True)

    def find(self, name: str, key: Any, shape: Any = dict) -> Any:
        """Returns the result of a stage, or None if it must be done.

        Args:
            name: file name of the stage.
            key: JSON value that says what the stage is made from.
            shape: type of the result.

        Raises:
            OutputError: the stage's file is damaged.
        """
        path = self._path(name)
        try:
            stage = read_json(path, _Stage)
            # Through JSON and back, since a tuple is read as a list.
            if stage["key"] != json.loads(json.dumps(key)):
                return None
            check_shape(stage["result"], f"{path}: result", shape)
        except FileNotFoundError:
            return None
        except StructureError as error:
            raise OutputError(f"{error}; remove the file, to do this stage again") from error
        intact = all(Output._make(output).intact() for output in stage["outputs"])
        return stage["result"] if intact else None

    def find_all(self, wanted: Iterable[tuple[str, Any]], shape: Any) -> list[Any]:
        """Returns `find` of each (name, key) in `wanted`, several at a time."""
        with concurrent.futures.ThreadPoolExecutor(self._jobs) as pool:
            return list(pool.map(lambda pair: self.find(pair[0], pair[1], shape), wanted))

    def commit(self, name: str, key: Any, result: Any, outputs: Iterable[Output] = ()) -> None:
        """Records a finished stage, whose Outputs have been synced to disk."""
        stage = {"key": key, "outputs": [list(output) for output in outputs], "result": result}
        write_json(self._path(name), stage)

    def forget(self, prefix: str = "") -> None:
        """Removes the stages whose names begin with `prefix`."""
        for name in os.listdir(self._folder):
            if name.startswith(prefix):
                os.remove(os.path.join(self._folder, name))

    def _path(self, name):
        return os.path.join(self._folder, f"{name}.json")


def check_work_folder(folder: str) -> None:
    """Raises `OutputError` unless `folder` is new, empty, or one that `locked` has made."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    if not names:
        return
    mark = b""
    if "lock" in names:
        with open_regular(os.path.join(folder, "lock")) as file:
            mark = file.read(len(_MARK) + 1)
    # Empty, or cut, where a run ended as it began.
    begun = _MARK.startswith(mark) and names == ["lock"]
    if mark != _MARK and not begun:
        raise OutputError(
            f"{folder}: holds files that preprocess.py did not write: its work folder (--work_dir) "
            "must be new or empty"
        )


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Holds `folder` for this process; a second run on it is an error, not a race."""
    check_work_folder(folder)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "lock")
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    with open(open_regular_fd(path, os.O_RDWR), "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OptionError(f"{folder}: another preprocessing run works here") from error
        with naming_errors(path):
            if file.write(_MARK) < len(_MARK):  # Room for a part of it.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
