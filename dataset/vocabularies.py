"""How two lists of vocabulary sizes differ, in one line."""

from __future__ import annotations

from collections.abc import Sequence


def difference(
    ours: Sequence[int], theirs: Sequence[int], our_name: str, their_name: str
) -> str | None:
    """Returns what differs, naming the first table that does, or None where nothing does.

    `table 3: the checkpoint has 1,245 rows, the data 1,300 (2 more tables differ)`.

    Args:
        ours: rows of each table, [T].
        theirs: rows of each table, [T'].
        our_name: what `ours` belongs to, such as "the checkpoint".
        their_name: what `theirs` belongs to, such as "the data".
    """
    ours, theirs = list(ours), list(theirs)
    if ours == theirs:
        return None
    parts = []
    if len(ours) != len(theirs):
        parts.append(f"{our_name} has {len(ours)} tables, {their_name} {len(theirs)}")
    wrong = [table for table, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1]]
    if wrong:
        table, more = wrong[0], len(wrong) - 1
        line = f"table {table}: {our_name} has {ours[table]:,} rows, {their_name} {theirs[table]:,}"
        if more:
            line += f" ({more} more table{'s differ' if more > 1 else ' differs'})"
        parts.append(line)
    if sorted(ours) == sorted(theirs):
        parts.append("the sizes are the same in another order")
    return "; ".join(parts)
