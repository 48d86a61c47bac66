"""Counts a column's values with SQL, and writes the values that get an id, in the order of ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dataset.preprocessing import dictionaries, sql
from dataset.preprocessing.columns import CATEGORICAL_NAMES
from dataset.preprocessing.dictionaries import Rule

if TYPE_CHECKING:
    from dataset.preprocessing.engines.interface import Engine

#: Values listed in a column's summary.
MOST_FREQUENT = 10


def make_dictionary(engine: Engine, rule: Rule, column: int, folder: str) -> dict[str, Any]:
    """Writes the dictionary of column `column` (from 0) to `folder`.

    Args:
        engine: Engine whose table `samples` is open.
        rule: how values become ids.
        column: number of the column.
        folder: the dictionary's folder.

    Returns:
        dict of JSON types: `vocab_size`, `distinct` (values, reduced by the modulo), `rare_values`
        and `rare_samples` (below the threshold), `most_frequent` ([value in hexadecimal, count]).
    """
    engine.count(sql.counts(CATEGORICAL_NAMES[column], rule.max_rows))
    _, distinct, rare_values, rare_samples = engine.row(sql.summary(rule.threshold))
    values = np.empty(distinct - rare_values, np.uint32)
    filled, head = 0, []
    for batch in engine.ordered(sql.dictionary(rule.threshold)):
        found = np.asarray(batch.column(0))
        values[filled : filled + found.size] = found
        filled += found.size
        if len(head) < MOST_FREQUENT:
            head += most_frequent(found, np.asarray(batch.column(1)))
    if filled != values.size:
        raise AssertionError(f"dictionary: expected {values.size} values, found {filled}")
    dictionaries.write_column(dictionaries.column_path(folder, column), values)
    return summary(rule, filled, head[:MOST_FREQUENT], rare_values, rare_samples)


def most_frequent(values: np.ndarray, frequencies: np.ndarray) -> list[list]:
    """Returns [value in hexadecimal, count] of the first ten values, given in the order of ids."""
    pairs = zip(values[:MOST_FREQUENT], frequencies[:MOST_FREQUENT])
    return [[f"{value:08x}", int(count)] for value, count in pairs]


def summary(
    rule: Rule,
    entries: int,
    most_frequent: Sequence[list],
    rare_values: int = 0,
    rare_samples: int = 0,
) -> dict[str, Any]:
    """Returns a column's summary as JSON types.

    Args:
        rule: how values become ids.
        entries: number of values with their own id.
        most_frequent: result of the function `most_frequent`.
        rare_values: number of values below the rule's threshold.
        rare_samples: number of samples with such a value.
    """
    return {
        "vocab_size": rule.vocab_size(entries),
        "distinct": entries + rare_values,
        "rare_values": rare_values,
        "rare_samples": rare_samples,
        "most_frequent": most_frequent,
    }
