"""Placements of five tables on any number of ranks, one for each way to divide them."""

from model.embedding.placement import Assignment, Placement


def placement_of(kind, size, vocab_sizes, dimension):
    """Returns a placement of five tables.

    Args:
        kind: "table", "last rank" (every table on it), "row", "mixed" (row-wise and table-wise),
            "column" (column-, row- and table-wise) or "replicated" (replicated, row- and
            table-wise).
        size: number of ranks, 2 or more for "column".
        vocab_sizes: five table sizes.
        dimension: D.
    """
    table = [Assignment("table", (t % size,)) for t in range(5)]
    row, replicated = Assignment("row"), Assignment("replicated")
    column = Assignment("column", (0, size - 1))
    kinds = {
        "table": table,
        "last rank": [Assignment("table", (size - 1,))] * 5,
        "row": [row] * 5,
        "mixed": [row, *table[1:4], row],
        "column": [column, table[1], column, table[3], row],
        "replicated": [table[0], replicated, row, replicated, table[4]],
    }
    return Placement(tuple(vocab_sizes), dimension, size, tuple(kinds[kind]))
