"""Embedding tables stored back to back in one variable: lookup, in-place updates, initial values.

B samples, T tables, D elements per row. The variable is float32 [rows, D]. Table t occupies rows
[base_rows[t], base_rows[t] + table_rows[t]); ids count from 0 within each table.
"""

from ops.embedding.initialize import create_table, embedding_initialize, write_rows
from ops.embedding.native import (
    RowIds,
    RowRule,
    embedding_lookup,
    embedding_update,
)
from ops.embedding.tensorflow_formulation import (
    apply_slices,
    embedding_lookup_tensorflow,
    embedding_update_tensorflow,
)

__all__ = [
    "RowIds",
    "RowRule",
    "apply_slices",
    "create_table",
    "embedding_initialize",
    "embedding_lookup",
    "embedding_lookup_tensorflow",
    "embedding_update",
    "embedding_update_tensorflow",
    "write_rows",
]
