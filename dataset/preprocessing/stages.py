"""The journal of finished stages: a stage is committed once its outputs are on disk.

Each stage is one small JSON file with its key (everything that it depends on), its result, and size
and CRC-32 of its outputs. A stage is done again if its key differs or an output no longer has its
checksum. Therefore a killed run continues where it stopped, and a changed input or option repeats
only the stages that depend on it.
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

#: Content of a work folder's lock file, which identifies the folder.
_MARK = b"preprocess.py works in this folder\n"


class Output(NamedTuple):
    """Bytes that a stage wrote: a file, or a region of it."""

    path: str
    offset: int
    length: int
    crc32: int

    @classmethod
    def complete(cls, path: str, crc32: int | None = None) -> Output:
        """Returns the Output for a complete file; reads it if `crc32` is not given."""
        crc32 = crc32_of_file(path) if crc32 is None else crc32
        return cls(path, 0, os.path.getsize(path), crc32)

    def intact(self) -> bool:
        """Returns whether the file still holds these bytes."""
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
        """Returns the result of a stage; None if the stage must be done.

        Args:
            name: file name of the stage.
            key: JSON value with everything that the stage depends on.
            shape: type of the result.

        Raises:
            OutputError: the stage's file is damaged.
        """
        path = self._path(name)
        try:
            stage = read_json(path, _Stage)
            # Through JSON and back, since JSON makes lists of tuples.
            if stage["key"] != json.loads(json.dumps(key)):
                return None
            check_shape(stage["result"], f"{path}: result", shape)
        except FileNotFoundError:
            return None
        except StructureError as error:
            problem = f"{error}; remove the file to repeat this stage"
            raise OutputError(problem, **{**error.fields, "path": path}) from error
        intact = all(Output._make(output).intact() for output in stage["outputs"])
        return stage["result"] if intact else None

    def find_all(self, wanted: Iterable[tuple[str, Any]], shape: Any) -> list[Any]:
        """Returns `find` of each (name, key) in `wanted`, with several threads."""
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
    """Raises `OutputError` unless `folder` is new, empty, or made by `locked`."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    if not names:
        return
    mark = b""
    if "lock" in names:
        with open_regular(os.path.join(folder, "lock")) as file:
            mark = file.read(len(_MARK) + 1)
    # An interrupted start leaves an empty or truncated lock file.
    begun = _MARK.startswith(mark) and names == ["lock"]
    if mark != _MARK and not begun:
        problem = "expected a new or empty work folder, found other files; try another --work_dir"
        raise OutputError.of_path(folder, problem, flag="work_dir")


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Locks `folder` for this process.

    Raises:
        OptionError: another run holds the lock.
        OutputError: see `check_work_folder`.
    """
    check_work_folder(folder)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "lock")
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    with open(open_regular_fd(path, os.O_RDWR), "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            problem = "another preprocessing run uses this work folder"
            raise OptionError.of_path(folder, problem, flag="work_dir") from error
        with naming_errors(path):
            if file.write(_MARK) < len(_MARK):  # The disk is full.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
