"""Counts one column's values, and writes those that get an id, in the order of their ids."""

from __future__ import annotations

import numpy as np

from dataset.preprocessing import dictionaries, sql
from dataset.preprocessing.columns import CATEGORICAL_NAMES

_MOST_FREQUENT = 10


def make_dictionary(engine, rule, column, folder):
    """Writes the dictionary of column `column` (from 0) to `folder`.

    Args:
        engine: Engine whose table `samples` is open.
        rule: dictionaries.Rule.
        column: number of the column.
        folder: the dictionary's folder.

    Returns:
        dict of JSON types: `vocab_size`, `distinct` (values, reduced by the modulo), `rare_values`
        and `rare_samples` (below the threshold), `most_frequent` ([value in hexadecimal, count]).
    """
    engine.count(sql.counts(CATEGORICAL_NAMES[column], rule.max_rows))
    _, distinct, rare_values, rare_samples = engine.row(sql.summary(rule.threshold))
    values = np.empty(distinct - rare_values, np.uint32)
    filled, most_frequent = 0, []
    for batch in engine.ordered(sql.dictionary(rule.threshold)):
        found = np.asarray(batch.column(0))
        values[filled : filled + found.size] = found
        filled += found.size
        if len(most_frequent) < _MOST_FREQUENT:
            rest = slice(0, _MOST_FREQUENT - len(most_frequent))
            frequencies = np.asarray(batch.column(1))[rest]
            most_frequent += [[f"{v:08x}", int(n)] for v, n in zip(found[rest], frequencies)]
    if filled != values.size:
        raise AssertionError(f"{filled} values in the dictionary, counted {values.size}")
    dictionaries.write_column(dictionaries.column_path(folder, column), values)
    return {
        "vocab_size": rule.vocab_size(filled),
        "distinct": distinct,
        "rare_values": rare_values,
        "rare_samples": rare_samples,
        "most_frequent": most_frequent,
    }
