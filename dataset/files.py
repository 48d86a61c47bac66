"""Sizes of data files, checked against the samples they should hold."""

import hashlib
import os
import stat

from dataset.columns import Segment
from dataset.errors import DatasetError

#: Bytes read from each end of a file for a sampled fingerprint.
_SAMPLED_BYTES = 65536


def size(path):
    """Returns the size in bytes of the regular, readable file `path`."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: missing file") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError(f"{path}: expected a regular file, found something else")
    if not os.access(path, os.R_OK):
        raise DatasetError(f"{path}: cannot be read: Permission denied")
    return status.st_size


def count_samples(path, bytes_per_sample, header=0):
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


def expect_samples(path, bytes_per_sample, samples, header=0):
    """Raises `DatasetError` unless the file holds exactly `samples` after its header."""
    found = size(path)
    expected = header + samples * bytes_per_sample
    if found != expected:
        what = "truncated" if found < expected else "too long"
        raise DatasetError(
            f"{path}: {what}: expected {expected} bytes ({samples} samples of "
            f"{bytes_per_sample} bytes), found {found} "
            f"({(found - header) / bytes_per_sample:.10g} samples)"
        )


def whole_file(path, samples, offset=0):
    """Returns the segments of a column that lies in one file."""
    return (Segment(path=os.fspath(path), offset=offset, samples=samples),)


def sampled_fingerprint(paths, facts):
    """Returns a fingerprint of data that carries none of its own.

    Digests `facts` and each file's name, size and both ends: cheap at any size, and different for
    any two datasets that are not made to deceive.
    """
    digest = hashlib.sha256(repr(facts).encode())
    for path in paths:
        length = size(path)
        digest.update(f"{os.path.basename(path)}:{length}".encode())
        with open(path, "rb") as file:
            digest.update(file.read(_SAMPLED_BYTES))
            file.seek(max(0, length - _SAMPLED_BYTES))
            digest.update(file.read(_SAMPLED_BYTES))
    return "sampled-sha256:" + digest.hexdigest()
