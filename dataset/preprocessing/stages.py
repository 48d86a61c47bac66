"""The journal of what is finished: a stage is committed once its outputs are on disk.

Each stage is one small JSON file with what it was made from (its key), its result, and size and
CRC-32 of its outputs. A stage counts only while its key is the one asked for and its outputs still
have these checksums; otherwise it is done again. So a killed run goes on where it was, and a
changed input or option redoes what depends on it and nothing else.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import json
import os
from typing import NamedTuple

from dataset.preprocessing import durable
from dataset.preprocessing.errors import OptionError


class Output(NamedTuple):
    """Bytes that a stage wrote: a whole file, or a region of one."""

    path: str
    offset: int
    length: int
    crc32: int

    @classmethod
    def whole(cls, path, crc32=None):
        """Returns the Output for all of a file, reading it if its checksum is not given."""
        crc32 = durable.checksum(path) if crc32 is None else crc32
        return cls(path, 0, os.path.getsize(path), crc32)

    def intact(self):
        """Tells whether the file still holds these bytes."""
        try:
            if os.path.getsize(self.path) < self.offset + self.length:
                return False
            return durable.checksum(self.path, self.offset, self.length) == self.crc32
        except OSError:
            return False


class Stages:
    """The committed stages below one folder."""

    def __init__(self, folder, jobs=1):
        """Opens the journal in `folder`; `jobs` threads check outputs."""
        self._folder = folder
        self._jobs = jobs
        os.makedirs(folder, exist_ok=True)

    def find(self, name, key):
        """Returns the result of a stage, or None if it must be done.

        Args:
            name: file name of the stage.
            key: JSON value that says what the stage is made from.
        """
        try:
            with open(self._path(name), encoding="utf-8") as file:
                stage = json.load(file)
        except (OSError, ValueError):
            return None
        # Through JSON and back, since a tuple is read as a list.
        if stage["key"] != json.loads(json.dumps(key)):
            return None
        intact = all(Output._make(output).intact() for output in stage["outputs"])
        return stage["result"] if intact else None

    def find_all(self, wanted):
        """Returns `find` of each (name, key) in `wanted`, several at a time."""
        with concurrent.futures.ThreadPoolExecutor(self._jobs) as pool:
            return list(pool.map(lambda pair: self.find(*pair), wanted))

    def commit(self, name, key, result, outputs=()):
        """Records a finished stage, whose Outputs have been synced to disk."""
        stage = {"key": key, "outputs": [list(output) for output in outputs], "result": result}
        durable.write_json(self._path(name), stage)

    def forget(self, prefix=""):
        """Removes the stages whose names begin with `prefix`."""
        for name in os.listdir(self._folder):
            if name.startswith(prefix):
                os.remove(os.path.join(self._folder, name))

    def _path(self, name):
        return os.path.join(self._folder, f"{name}.json")


@contextlib.contextmanager
def locked(folder):
    """Holds `folder` for this process; a second run on it is an error, not a race."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "lock"), "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OptionError(f"{folder}: another preprocessing run works here") from error
        yield
