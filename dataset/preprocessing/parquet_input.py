"""Reads Parquet days: columns label, I1..I13, C1..C26 as integers or as text.

Integers stand for themselves; text is read as in TSV (decimal for the label and I columns,
hexadecimal for C columns). Null and empty text are missing values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.preprocessing import parts, progress
from dataset.preprocessing.columns import DENSE, NAMES, Samples
from dataset.preprocessing.errors import InputError
from dataset.preprocessing.fields import PADDING, ByteBlock, decode_hex, decode_integers
from dataset.preprocessing.tsv import DecodedLines, Reject
from storage.regular import check_regular

if TYPE_CHECKING:
    from dataset.preprocessing.parsing import Unit

_BATCH_ROWS = 1 << 15
#: Columns that an error names.
_MOST_SHOWN = 45


def ranges(path: str) -> list[tuple[int, int]]:
    """Returns [(first row group, row group after the last)] of about `PART_ROWS` rows each."""
    metadata = _open(path).metadata
    found, begin, rows = [], 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= parts.PART_ROWS or group == metadata.num_row_groups - 1:
            found.append((begin, group + 1))
            begin, rows = group + 1, 0
    return found


def bytes_of(unit: Unit) -> int:
    """Returns the file bytes of a unit's row groups."""
    metadata = _open(unit.file.path).metadata
    return sum(metadata.row_group(g).total_byte_size for g in range(unit.begin, unit.end))


def read(path: str, begin: int, end: int) -> Iterator[DecodedLines]:
    """Yields DecodedLines of row groups [begin, end); "lines" are rows."""
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
        raise InputError(f"{path}: damaged Parquet data: {_line(error)}") from error


def _open(path):
    try:
        check_regular(path)
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable Parquet file: {_line(error)}") from error
    found = file.schema_arrow.names
    missing = [name for name in NAMES if name not in found]
    if missing:
        raise InputError(
            f"{path}: lacks the columns {', '.join(missing)}: expected label, I1..I13, C1..C26, "
            f"found {_shown(found)}"
        )
    # Arrow would take the one or the other.
    twice = [name for name in NAMES if found.count(name) > 1]
    if twice:
        raise InputError(f"{path}: has the columns {', '.join(twice)} twice")
    return file


def _line(error):
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def _shown(names):
    more = len(names) - _MOST_SHOWN
    listed = ", ".join(f"{name:.40}" for name in names[:_MOST_SHOWN]) or "none"
    return f"{listed} and {more} more" if more > 0 else listed


def decode_batch(batch: pa.RecordBatch, path: str) -> DecodedLines:
    """Decodes one Arrow record batch with the columns `NAMES`; returns DecodedLines."""
    rows = batch.num_rows
    samples = Samples.empty(rows)
    reasons = {}  # Row -> the first thing wrong with it.
    for index, name in enumerate(NAMES):
        column = batch.column(batch.schema.get_field_index(name))
        categorical = index > DENSE
        values, present, valid = _decode(column, categorical, f"{path}: column {name}")
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
        text = "\t".join(_text(batch.column(i)[row].as_py()) for i in _indices(batch))
        rejects.append(Reject(row, reasons[row], text.encode().replace(b"\n", b" ")))
    return DecodedLines(samples.keep(good), rejects, rows)


def _indices(batch):
    return [batch.schema.get_field_index(name) for name in NAMES]


def _text(value):
    return "" if value is None else str(value)


def _decode(column, categorical, where):
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
        raise InputError(f"{where} has type {kind}: expected integers or text")
    return _convert_numbers(column, categorical)


def _decode_text(column, categorical):
    column = pc.fill_null(column, b"")
    _, offsets, data = column.buffers()
    first = column.offset
    bounds = np.frombuffer(offsets, np.int64)[first : first + len(column) + 1]
    text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    begin = bounds[0] if len(bounds) else 0
    block = ByteBlock(text[begin : bounds[-1] if len(bounds) else 0])
    bounds = bounds - begin + PADDING
    decode = decode_hex if categorical else decode_integers
    return decode(block, bounds[:-1], bounds[1:])


def _convert_numbers(column, categorical):
    dtype = np.uint32 if categorical else np.int32
    present = ~np.asarray(column.is_null())
    zero = pa.scalar(0, column.type)
    numbers = np.asarray(pc.fill_null(column, zero))
    if numbers.dtype.kind == "f":
        present = present & ~np.isnan(numbers)
        numbers = np.where(present, numbers, 0)
    limits = np.iinfo(dtype)
    # Compared as they are: a cast first would wrap what does not fit.
    valid = (numbers >= limits.min) & (numbers <= limits.max)
    if numbers.dtype.kind == "f":
        valid &= numbers == np.floor(numbers)
    values = np.where(valid, numbers, 0).astype(dtype)
    return values, present, valid
