"""Reads Parquet days: columns label, I1..I13, C1..C26 as integers or as text.

Text is read as in TSV: decimal for the label and the I columns, hexadecimal for the C columns. Null
and empty text are missing values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.preprocessing import parts, progress
from dataset.preprocessing.columns import DENSE, HEX_DIGITS, NAMES, Samples
from dataset.preprocessing.errors import InputError
from dataset.preprocessing.tsv import DecodedLines, Reject
from storage.regular import check_regular

if TYPE_CHECKING:
    from dataset.preprocessing.parsing import Unit

_BATCH_ROWS = 1 << 15
#: pyarrow defines most of these functions at import time, which pyright does not see.
_compute: Any = pc
#: Column names listed in an error.
_MAX_LISTED = 45


def ranges(path: str) -> list[tuple[int, int]]:
    """Returns ranges of row groups, [(first, last + 1)], of about `PART_ROWS` rows each."""
    metadata = _open(path).metadata
    found, begin, rows = [], 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= parts.PART_ROWS or group == metadata.num_row_groups - 1:
            found.append((begin, group + 1))
            begin, rows = group + 1, 0
    return found


def bytes_of(unit: Unit) -> int:
    """Returns the number of bytes of a unit's row groups."""
    metadata = _open(unit.file.path).metadata
    return sum(metadata.row_group(g).total_byte_size for g in range(unit.begin, unit.end))


def read(path: str, begin: int, end: int) -> Iterator[DecodedLines]:
    """Yields DecodedLines of row groups [begin, end); a "line" is a row."""
    file = _open(path)
    metadata = file.metadata
    groups = range(begin, end)
    rows = sum(metadata.row_group(group).num_rows for group in groups)
    row_bytes = sum(metadata.row_group(group).total_byte_size for group in groups) / max(rows, 1)
    try:
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=list(groups), columns=list(NAMES)):
            decoded = decode_batch(batch, path)
            progress.advance(int(row_bytes * decoded.lines), decoded.lines)
            yield decoded
    except (pa.ArrowException, OSError) as error:
        raise InputError.of_path(path, f"damaged Parquet data: {_line(error)}") from error


def _open(path):
    try:
        check_regular(path)
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError.of_path(path, f"cannot be read as Parquet: {_line(error)}") from error
    found = file.schema_arrow.names
    missing = [name for name in NAMES if name not in found]
    if missing:
        problem = f"columns {', '.join(missing)} are missing: found {_listed(found)}"
        raise InputError.of_path(path, problem, expected=missing, found=found)
    # Arrow would read either of the two.
    twice = [name for name in NAMES if found.count(name) > 1]
    if twice:
        raise InputError.of_path(path, f"has the columns {', '.join(twice)} twice", found=twice)
    return file


def _line(error):
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def _listed(names):
    more = len(names) - _MAX_LISTED
    listed = ", ".join(f"{name:.40}" for name in names[:_MAX_LISTED]) or "none"
    return f"{listed} and {more} more" if more > 0 else listed


def decode_batch(batch: pa.RecordBatch, path: str) -> DecodedLines:
    """Returns the DecodedLines of an Arrow record batch with the columns `NAMES`.

    Args:
        batch: rows.
        path: their file, for errors.
    """
    rows = batch.num_rows
    samples = Samples.empty(rows)
    reasons = {}  # Row -> the first problem in it.
    for index, name in enumerate(NAMES):
        column = batch.column(name)
        categorical = index > DENSE
        values, present, valid = _decode(column, categorical, path, name)
        if index == 0:
            valid &= present & (values >> 1 == 0)
            samples.label[:] = values
        elif categorical:
            samples.values[index - 1 - DENSE] = values
            samples.present[index - 1 - DENSE] = present
        else:
            samples.dense[index - 1] = values
            samples.dense_present[index - 1] = present
        for row in np.flatnonzero(~valid).tolist():
            wanted = (
                "0 or 1" if index == 0 else "hexadecimal of 32 bits" if categorical else "int32"
            )
            reasons.setdefault(row, f"{name} {column[row].as_py()!r:.60} is not {wanted}")
    if not reasons:
        return DecodedLines(samples, [], rows)
    good = np.ones(rows, bool)
    rejects = []
    for row in sorted(reasons):
        good[row] = False
        values = [batch.column(name)[row].as_py() for name in NAMES]
        text = "\t".join("" if value is None else str(value) for value in values)
        rejects.append(Reject(row, reasons[row], text.encode().replace(b"\n", b" ")))
    return DecodedLines(samples[good], rejects, rows)


def _decode(column, categorical, path, name):
    """Returns (values, present, valid) of one column: uint32 if categorical, else int32."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    if any(test(kind) for test in (*is_text, pa.types.is_large_binary)):
        return _decode_text(column.cast(pa.large_binary()), categorical)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        problem = f"column {name}: expected integers or text, found {kind}"
        raise InputError.of_path(path, problem, field=name)
    return _convert_numbers(column, categorical)


def _decode_text(column, categorical):
    column = _compute.fill_null(column, b"")
    present = np.asarray(_compute.binary_length(column)) > 0
    digits = f"[0-9a-fA-F]{{1,{HEX_DIGITS}}}" if categorical else "-?[0-9]{1,16}"
    matches = _compute.match_substring_regex(column, f"^(?:{digits})$")
    numbers = _compute.if_else(matches, column, b"0").cast(pa.large_string())
    if categorical:
        values = _hex_values(_compute.ascii_lpad(numbers, HEX_DIGITS, "0"))
    else:
        values = np.asarray(numbers.cast(pa.int64()))
    limits = np.iinfo(np.uint32 if categorical else np.int32)
    fits = (values >= limits.min) & (values <= limits.max)
    valid = (np.asarray(matches) & fits) | ~present
    return np.where(fits, values, 0).astype(limits.dtype), present, valid


def _hex_values(column):
    """Returns int64 [n] of an Arrow large_string array of n texts of eight hexadecimal digits."""
    text = np.frombuffer(column.buffers()[2], np.uint8, HEX_DIGITS * len(column))
    digits = (text & 0x0F) + 9 * (text >> 6)  # Letters have bit 6 set.
    return digits.reshape(-1, HEX_DIGITS) @ (1 << 4 * np.arange(HEX_DIGITS)[::-1])


def _convert_numbers(column, categorical):
    dtype = np.uint32 if categorical else np.int32
    present = ~np.asarray(column.is_null())
    zero = pa.scalar(0, column.type)
    numbers = np.asarray(_compute.fill_null(column, zero))
    if numbers.dtype.kind == "f":
        present = present & ~np.isnan(numbers)
        numbers = np.where(present, numbers, 0)
    limits = np.iinfo(dtype)
    # Compared before the cast, which would wrap values that do not fit.
    valid = (numbers >= limits.min) & (numbers <= limits.max)
    if numbers.dtype.kind == "f":
        valid &= numbers == np.floor(numbers)
    values = np.where(valid, numbers, 0).astype(dtype)
    return values, present, valid
