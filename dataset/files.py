"""Files of a dataset: their sizes against the samples they should hold, their JSON and YAML."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any

from dataset.columns import Segment
from dataset.errors import DatasetError
from storage import regular, structured
from storage.digests import sampled_sha256


def size(path: str | os.PathLike) -> int:
    """Returns the size in bytes of the regular, readable file `path`."""
    try:
        status = regular.check_regular(path)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: missing file") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not os.access(path, os.R_OK):
        raise DatasetError(f"{path}: cannot be read: Permission denied")
    return status.st_size


def exists(path: str | os.PathLike) -> bool:
    """Returns whether there is something at `path`.

    Unlike `os.path.exists`, which takes what may not be looked at for missing.

    Raises:
        DatasetError: it cannot be found out, such as in a folder without permission.
    """
    return _status(path) is not None


def is_folder(path: str | os.PathLike) -> bool:
    """Returns whether `path` is a folder; raises as `exists`."""
    status = _status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def _status(path):
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def names_in(folder: str | os.PathLike) -> list[str]:
    """Returns the sorted names in `folder`.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(path, error):
    if isinstance(error, OSError):
        return DatasetError(f"{path}: cannot be read: {error.strerror}")
    # A ValueError: the text has a character that no path has.
    return DatasetError(f"{path!r:.200}: is no path: {error}")


def read_json(path: str | os.PathLike, shape: Any) -> Any:
    """Returns the JSON value in file `path`, which has the given shape (`storage.structured`).

    Raises:
        DatasetError: the file cannot be read, is not JSON, or has another shape.
    """
    return _as_dataset_error(structured.read_json, path, shape)


def read_yaml(path: str | os.PathLike, shape: Any) -> Any:
    """Returns the value in the YAML file `path`, as `read_json` does."""
    return _as_dataset_error(structured.read_yaml, path, shape)


def check_shape(value: Any, where: str, shape: Any) -> None:
    """Raises `DatasetError` unless a value from such a file has the given shape."""
    _as_dataset_error(structured.check_shape, value, where, shape)


def _as_dataset_error(function, *arguments):
    try:
        return function(*arguments)
    except OSError as error:
        raise DatasetError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except structured.StructureError as error:
        raise DatasetError(str(error)) from error


def count_samples(path: str, bytes_per_sample: int, header: int = 0) -> int:
    """Returns how many samples the file holds; they must fill it after the header."""
    found = size(path)
    samples, rest = divmod(found - header, bytes_per_sample)
    if rest or samples < 0:
        raise DatasetError(
            f"{path}: truncated or of another type: expected {header} + a multiple of "
            f"{bytes_per_sample} bytes, found {found} ({rest} too many)"
            if header
            else f"{path}: truncated or of another type: expected a multiple of "
            f"{bytes_per_sample} bytes, found {found} ({rest} too many)"
        )
    return samples


def expect_samples(
    path: str, bytes_per_sample: int, samples: int, header: int = 0, hint: str = ""
) -> None:
    """Raises `DatasetError` unless the file holds exactly `samples` after its header.

    Args:
        path: the file.
        bytes_per_sample: of one sample.
        samples: how many are expected.
        header: bytes before the first.
        hint: what the message ends with.
    """
    found = size(path)
    expected = header + samples * bytes_per_sample
    if found != expected:
        what = "truncated" if found < expected else "too long"
        raise DatasetError(
            f"{path}: {what}: expected {expected} bytes ({samples} samples of "
            f"{bytes_per_sample} bytes), found {found} "
            f"({(found - header) / bytes_per_sample:.10g} samples){hint}"
        )


def whole_file(path: str | os.PathLike, samples: int, offset: int = 0) -> tuple[Segment, ...]:
    """Returns the segments of a column that lies in one file."""
    return (Segment(path=os.fspath(path), offset=offset, samples=samples),)


def sampled_fingerprint(paths: Sequence[str], facts: Any) -> str:
    """Returns a fingerprint of data that carries none of its own.

    Digests `facts` and each file's name, size and both ends (`storage.digests.sampled_sha256`).

    Raises:
        DatasetError: a file cannot be read.
    """
    try:
        return "sampled-sha256:" + sampled_sha256(paths, repr(facts))
    except OSError as error:
        raise _unreadable(error.filename, error) from error
