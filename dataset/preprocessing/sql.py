"""The SQL of preprocessing: the same statements for DuckDB and Spark SQL.

Tables: `samples` is the parsed input (part_id, row_id, label, I1..I13, C1..C26); `counts` has
one column's values and their frequencies; `dictionary_1` .. `dictionary_26` map values to ids.

The statements use only constructs that mean the same in both dialects: 64-bit integers, GROUP BY,
LEFT JOIN, ORDER BY on columns without NULL.
"""

from __future__ import annotations

from dataset.preprocessing.columns import (
    CATEGORICAL_NAMES,
    DENSE_NAMES,
    LABEL_NAME,
    PART_NAME,
    ROW_NAME,
)


def dictionary_key(column: str, max_rows: int | None) -> str:
    """Returns the expression whose values a column's dictionary contains.

    Args:
        column: name of a categorical column, NULL where the value is missing.
        max_rows: M of the modulo rule (a missing value is value 0), or None for the frequency
            rule (unchanged values).
    """
    value = f"CAST({column} AS BIGINT)"
    return value if max_rows is None else f"COALESCE({value}, 0) % {int(max_rows)}"


def counts(column: str, max_rows: int | None) -> str:
    """Returns the statement that counts a column's dictionary keys over all samples."""
    key = dictionary_key(column, max_rows)
    return f"SELECT {key} AS value, COUNT(*) AS frequency FROM samples GROUP BY {key}"


def dictionary(threshold: int) -> str:
    """Returns the statement that lists the values with ids, in the order of the ids.

    By descending count, then ascending value: a total order, so that engines agree.
    """
    return (
        "SELECT value, frequency FROM counts "
        f"WHERE value IS NOT NULL AND frequency >= {int(threshold)} "
        "ORDER BY frequency DESC, value ASC"
    )


def summary(threshold: int) -> str:
    """Returns the statement that summarises `counts` in one row.

    Columns: samples, distinct values, distinct values below the threshold, samples with those.
    """
    rare = f"value IS NOT NULL AND frequency < {int(threshold)}"
    return (
        "SELECT SUM(frequency) AS samples, COUNT(value) AS distinct_values, "
        f"SUM(CASE WHEN {rare} THEN 1 ELSE 0 END) AS rare_values, "
        f"SUM(CASE WHEN {rare} THEN frequency ELSE 0 END) AS rare_samples FROM counts"
    )


def mapping(max_rows: int | None) -> str:
    """Returns the statement that selects every sample's ids; NULL for a value without one."""
    plain = (PART_NAME, ROW_NAME, LABEL_NAME, *DENSE_NAMES)
    selected = [f"samples.{name} AS {name}" for name in plain]
    joins = []
    for i, column in enumerate(CATEGORICAL_NAMES, start=1):
        selected.append(f"dictionary_{i}.id AS {column}")
        key = dictionary_key(f"samples.{column}", max_rows)
        joins.append(f"LEFT JOIN dictionary_{i} ON dictionary_{i}.value = {key}")
    return f"SELECT {', '.join(selected)} FROM samples {' '.join(joins)}"
