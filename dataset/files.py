"""Checks files of a dataset against their expected sizes, and reads their JSON and YAML."""

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
    """Returns the size in bytes of the regular, readable file `path`.

    Raises:
        DatasetError: the file is missing, unreadable or not regular.
    """
    try:
        status = regular.check_regular(path)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: missing file", path=path) from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not os.access(path, os.R_OK):
        raise DatasetError(f"{path}: cannot be read: Permission denied", path=path)
    return status.st_size


def exists(path: str | os.PathLike) -> bool:
    """Returns whether `path` exists; unlike `os.path.exists`, raises if that is unknown.

    Raises:
        DatasetError: the path cannot be checked, for example without permission for its folder.
    """
    return _status(path) is not None


def is_folder(path: str | os.PathLike) -> bool:
    """Returns whether `path` is a folder; raises like `exists`."""
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
        DatasetError: the folder cannot be read.
    """
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(path, error):
    if isinstance(error, OSError):
        return DatasetError.of_path(path, f"cannot be read: {error.strerror}")
    # A ValueError: the path contains NUL.
    return DatasetError(f"{path!r:.200}: not a path: {error}", path=path)


def read_json(path: str | os.PathLike, shape: Any) -> Any:
    """Returns the value in the JSON file `path`, checked against a shape (`storage.structured`).

    Raises:
        DatasetError: the file cannot be read, is not JSON, or has another shape.
    """
    return _read(structured.read_json, path, shape)


def read_yaml(path: str | os.PathLike, shape: Any) -> Any:
    """Returns the value in the YAML file `path`; see `read_json`."""
    return _read(structured.read_yaml, path, shape)


def _read(function, path, shape):
    try:
        return function(path, shape)
    except OSError as error:
        raise _unreadable(error.filename, error) from error
    except structured.StructureError as error:
        raise DatasetError.of(error) from error


def check_shape(value: Any, path: str, shape: Any, field: str | None = None) -> None:
    """Checks the shape of a value that was read from a structured file.

    Args:
        value: the value.
        path: the file.
        shape: the type that the value must have.
        field: the value's field in the file; None for the complete content.

    Raises:
        DatasetError: the value has another shape.
    """
    try:
        structured.check_shape(value, path if field is None else f"{path}: {field}", shape)
    except structured.StructureError as error:
        parts = [part for part in (field, error.field) if part is not None]
        raise DatasetError.of(error, path=path, field=".".join(parts) or None) from error


def count_samples(path: str, bytes_per_sample: int, header: int = 0) -> int:
    """Returns the number of samples in a file, which must fill it after the header.

    Raises:
        DatasetError: the size is not the header plus a multiple of `bytes_per_sample`.
    """
    found = size(path)
    if found < header:
        raise DatasetError.of_path(
            path,
            f"truncated, or not the expected type: expected at least {header} bytes, found {found}",
            found=found,
            bound=header,
        )
    samples, rest = divmod(found - header, bytes_per_sample)
    if rest:
        raise DatasetError.of_path(
            path,
            f"truncated, or not the expected type: expected {f'{header} + ' if header else ''}a "
            f"multiple of {bytes_per_sample} bytes, found {found} (the last sample has {rest} of "
            f"{bytes_per_sample} bytes)",
        )
    return samples


def expect_samples(
    path: str, bytes_per_sample: int, samples: int, header: int = 0, hint: str = ""
) -> None:
    """Raises `DatasetError` unless the file holds exactly `samples` samples after its header.

    `hint` ends the message.
    """
    found = size(path)
    expected = header + samples * bytes_per_sample
    if found != expected:
        what = "truncated" if found < expected else "too long"
        raise DatasetError.of_path(
            path,
            f"{what}: expected {expected} bytes ({samples} samples of {bytes_per_sample} bytes), "
            f"found {found} ({(found - header) / bytes_per_sample:.10g} samples){hint}",
            expected=expected,
            found=found,
        )


def single_segment(path: str | os.PathLike, samples: int, offset: int = 0) -> tuple[Segment, ...]:
    """Returns the segments of a column in one file."""
    return (Segment(path=os.fspath(path), offset=offset, samples=samples),)


def sampled_fingerprint(paths: Sequence[str], facts: Any) -> str:
    """Returns a fingerprint for data that does not record one.

    It digests `facts` and each file's name, size and both ends (`storage.digests.sampled_sha256`).

    Raises:
        DatasetError: a file cannot be read.
    """
    try:
        return "sampled-sha256:" + sampled_sha256(paths, repr(facts))
    except OSError as error:
        raise _unreadable(error.filename, error) from error
