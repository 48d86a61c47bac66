"""Finds the arrays in NumPy's .npy and .npz files, so that they are read without being copied.

A .npz file is a ZIP archive of .npy files. `numpy.savez` stores them uncompressed: each array is a
run of bytes of the archive, after the member's local header and the .npy header.
"""

from __future__ import annotations

import struct
import tokenize
import zipfile
from typing import BinaryIO, NamedTuple

import numpy as np

from dataset import files
from dataset.errors import DatasetError
from storage import regular

# Exceptions of NumPy for an invalid header, which should be a Python literal.
_INVALID_HEADER = (
    ValueError, TypeError, KeyError, OSError, SyntaxError, RecursionError, MemoryError,
    tokenize.TokenError,
)  # fmt: skip
_INVALID_ARCHIVE = (
    zipfile.BadZipFile, NotImplementedError, ValueError, OSError, MemoryError, struct.error,
)  # fmt: skip
#: Functions that read a .npy header, by its version.
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
#: The fields used of a member's local header: signature, and lengths of its name and extra field.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SIGNATURE = b"PK\x03\x04"
#: Bit of a member's flags.
_ENCRYPTED = 1


class StoredArray(NamedTuple):
    """An array [rows, width] in C order in a file.

    Attributes:
        rows: number of rows.
        width: values per row.
        offset: byte offset of the first value.
    """

    rows: int
    width: int
    offset: int


def npy_array(path: str, dtype: str, width: int) -> StoredArray:
    """Returns where the array [rows, width] of a .npy file is; [rows] if the width is 1.

    Raises:
        DatasetError: the file is missing, is not a .npy file, or holds another array.
    """
    files.size(path)
    try:
        with regular.open_regular(path) as file:
            shape, order, found, offset = _read_header(file)
    except _INVALID_HEADER as error:
        problem = f"not a .npy file: {_reason(error)}"
        raise DatasetError(f"{path}: {problem}", path=path) from error
    rows = shape[0] if shape else 0
    if shape not in ((rows, width), (rows,)[: 1 if width == 1 else 0]) or order:
        problem = f"expected an array of shape [n, {width}] in C order, found {list(shape)}{order}"
        raise DatasetError.of_path(path, problem)
    if found != np.dtype(dtype):
        raise DatasetError.mismatch(path, "dtype", dtype, str(found))
    files.expect_samples(path, width * np.dtype(dtype).itemsize, rows, header=offset)
    return StoredArray(rows, width, offset)


def npz_arrays(path: str, dtype: str, count: int) -> list[StoredArray]:
    """Returns where the arrays 0.npy to (count - 1).npy of a .npz file are.

    They must have two dimensions and the same number of rows, and be stored uncompressed.

    Raises:
        DatasetError: the file is missing or damaged, or holds other arrays.
    """
    files.size(path)
    try:
        with regular.open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            _check_names(path, set(members), count)
            # The arrays must end before the archive's directory.
            end = archive.start_dir
            arrays = [
                _member_array(path, file, members[f"{i}.npy"], end, dtype) for i in range(count)
            ]
    except DatasetError:
        raise
    except _INVALID_ARCHIVE as error:
        raise DatasetError(f"{path}: not a .npz file: {_reason(error)}", path=path) from error
    for index, array in enumerate(arrays):
        if array.rows != arrays[0].rows:
            what = f"{index}.npy: rows, as in 0.npy"
            raise DatasetError.mismatch(path, what, arrays[0].rows, array.rows)
    return arrays


def _check_names(path, names, count):
    expected = {f"{index}.npy" for index in range(count)}
    if names == expected:
        return
    missing = sorted(expected - names, key=lambda name: int(name[:-4]))
    found = f"{len(names)} members"
    if missing:
        found += f" without {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}"
    what = "arrays, one per table"
    raise DatasetError.mismatch(path, what, f"0.npy to {count - 1}.npy", found)


def _member_array(path, file, info, end, dtype):
    name = info.filename
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
        found = "an encrypted one" if info.flag_bits & _ENCRYPTED else "a compressed one"
        advice = "; write the file with numpy.savez"
        raise DatasetError.mismatch(path, name, "an uncompressed member", found, advice)
    file.seek(info.header_offset)
    # The local header's lengths may differ from those in the archive's directory.
    signature, *lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    begin = info.header_offset + _LOCAL_HEADER.size + sum(lengths)
    if signature != _SIGNATURE or begin + info.file_size > end:
        raise DatasetError(f"{path}: not a .npz file: {name} is damaged", path=path)
    file.seek(begin)
    try:
        shape, order, found, offset = _read_header(file)
    except _INVALID_HEADER as error:
        problem = f"{name}: not a .npy file: {_reason(error)}"
        raise DatasetError(f"{path}: {problem}", path=path) from error
    if len(shape) != 2 or not shape[1] or order:
        expected = "an array of shape [n, ids per sample] in C order"
        raise DatasetError.mismatch(path, name, expected, f"{list(shape)}{order}")
    if found != np.dtype(dtype):
        raise DatasetError.mismatch(path, f"{name}: dtype", dtype, str(found))
    size = offset - begin + shape[0] * shape[1] * found.itemsize
    if size != info.file_size:
        raise DatasetError.mismatch(path, f"{name}: bytes", size, info.file_size)
    return StoredArray(*shape, offset)


def _read_header(file: BinaryIO):
    """Returns (shape, " in Fortran order" or "", dtype, offset of the first value)."""
    shape, fortran, dtype = _READ_HEADER[np.lib.format.read_magic(file)](file)
    return shape, " in Fortran order" if fortran else "", dtype, file.tell()


def _reason(error):
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
