"""Reference implementation of preprocessing in plain Python: line by line, with dicts."""

import collections
import math
import re

import numpy as np


def read_line(line):
    """Returns (label, 13 counts or None, 26 values or None), or None for a malformed line.

    Args:
        line: str without LF; a CR at its end is ignored.
    """
    fields = line.removesuffix("\r").split("\t")
    if len(fields) != 40 or fields[0] not in ("0", "1"):
        return None
    dense, values = [], []
    for field in fields[1:14]:
        if field == "":
            dense.append(None)
        elif re.fullmatch(r"-?[0-9]{1,16}", field) and -(2**31) <= int(field) <= 2**31 - 1:
            dense.append(int(field))
        else:
            return None
    for field in fields[14:]:
        if field == "":
            values.append(None)
        elif re.fullmatch(r"[0-9a-fA-F]{1,8}", field):
            values.append(int(field, 16))
        else:
            return None
    return int(fields[0]), dense, values


def make_dictionaries(samples, modulo=None, threshold=None):
    """Returns 26 dicts value -> id and 26 vocabulary sizes."""
    tables, sizes = [], []
    for column in range(26):
        counts = collections.Counter()
        for _, _, values in samples:
            value = values[column]
            if modulo is not None:
                counts[(value or 0) % modulo] += 1
            elif value is not None:
                counts[value] += 1
        least = 1 if modulo is not None else threshold
        first = 0 if modulo is not None else 1
        kept = [value for value in counts if counts[value] >= least]
        kept.sort(key=lambda value: (-counts[value], value))
        tables.append({value: first + i for i, value in enumerate(kept)})
        sizes.append(max(1, first + len(kept)))
    return tables, sizes


def to_records(samples, tables, modulo=None, negatives="zero"):
    """Returns int32 records [n, 40]."""
    records = np.zeros((len(samples), 40), np.int32)
    for row, (label, dense, values) in enumerate(samples):
        records[row, 0] = label
        for i, count in enumerate(dense):
            count = count or 0
            records[row, 1 + i] = count if negatives == "keep" else max(count, 0)
        for i, value in enumerate(values):
            if modulo is not None:
                records[row, 14 + i] = tables[i][(value or 0) % modulo]
            else:
                records[row, 14 + i] = tables[i].get(value, 0)
    return records


def split_rows(rows, fraction):
    """Returns (training rows, test rows) if the last `fraction` (a Fraction) of rows is test."""
    test = math.ceil(rows * fraction)
    return rows - test, test
