"""Placements as JSON files, checked when they are read: they may be edited by hand."""

import json
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Optional, TypedDict, Union

import msgspec

from model.embedding.placement import Placement
from model.embedding.shards import KINDS, Assignment, PlacementError, is_integer
from storage.structured import StructureError, check_shape, parse_json, read_json

FORMAT = "dlrm-placement"
VERSION = 1

_KEYS = (
    "format",
    "version",
    "ranks",
    "dimension",
    "vocab_sizes",
    "optimizer_bytes_per_row",
    "bytes_per_rank",
    "tables",
)
_Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Document(TypedDict, total=False):
    format: str
    version: int
    ranks: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    dimension: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    vocab_sizes: list[Annotated[int, msgspec.Meta(ge=1, le=2**53)]]
    optimizer_bytes_per_row: _Bytes
    bytes_per_rank: Optional[_Bytes]
    tables: list[dict[str, Any]]


_RANK_KEYS: dict[str, set[str]] = {
    "table": {"rank"},
    "column": {"ranks"},
    "row": set(),
    "replicated": set(),
}


def placement_text(placement: Placement) -> str:
    """Return a placement as JSON text, one line per table; `read_placement` reads it."""
    tables = []
    for table, assignment in enumerate(placement.assignments):
        entry: dict[str, Any] = {"table": table, "kind": assignment.kind}
        if assignment.kind == "table":
            entry["rank"] = assignment.ranks[0]
        elif assignment.kind == "column":
            entry["ranks"] = list(assignment.ranks)
        tables.append("    " + json.dumps(entry))
    head = {
        "format": FORMAT,
        "version": VERSION,
        "ranks": placement.ranks,
        "dimension": placement.dimension,
        "vocab_sizes": list(placement.vocab_sizes),
        "optimizer_bytes_per_row": placement.optimizer_bytes_per_row,
        "bytes_per_rank": placement.bytes_per_rank,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    return "\n".join(["{", *lines, '  "tables": [', ",\n".join(tables), "  ]", "}", ""])


def read_placement(
    source: Union[str, os.PathLike],
    *,
    vocab_sizes: Optional[Sequence[int]] = None,
    dimension: Optional[int] = None,
    ranks: Optional[int] = None,
    optimizer_bytes_per_row: Optional[int] = None,
    bytes_per_rank: Optional[int] = None,
) -> Placement:
    """Read a placement, for example one written by hand.

    Args:
      source: JSON text (its first character is `{`) or the path of a file.
      vocab_sizes: of the run; the file may leave them out and must not contradict them.
      dimension: likewise.
      ranks: likewise.
      optimizer_bytes_per_row: overrides the file's.
      bytes_per_rank: overrides the file's.

    Raises:
      PlacementError: the placement is wrong; the message names the table.
    """
    document, name = _load(source)
    if not isinstance(document, dict):
        raise PlacementError(f"{name}: expected a JSON object, found {type(document).__name__}")
    for key in document:
        if key not in _KEYS:
            raise PlacementError(f"{name}: unknown key {key!r}, expected {', '.join(_KEYS)}")
    if document.get("format", FORMAT) != FORMAT or document.get("version", VERSION) != VERSION:
        raise PlacementError(
            f"{name}: format {document.get('format')!r} version {document.get('version')!r}, "
            f"expected {FORMAT!r} version {VERSION}"
        )
    try:
        check_shape(document, name, _Document)
    except StructureError as error:
        raise PlacementError(str(error)) from None
    sizes = _agreed(document, "vocab_sizes", vocab_sizes, name)
    state_bytes = optimizer_bytes_per_row
    if state_bytes is None:
        state_bytes = int(document.get("optimizer_bytes_per_row", 0))
    if bytes_per_rank is None:
        bytes_per_rank = document.get("bytes_per_rank")
    for key, value in (
        ("optimizer_bytes_per_row", state_bytes),
        ("bytes_per_rank", 0 if bytes_per_rank is None else bytes_per_rank),
    ):
        if not is_integer(value) or value < 0:
            raise PlacementError(f"{name}: {key} is {value!r}, expected a non-negative integer")
    try:
        return Placement(
            vocab_sizes=tuple(sizes),
            dimension=_agreed(document, "dimension", dimension, name),
            ranks=_agreed(document, "ranks", ranks, name),
            assignments=_assignments(document.get("tables"), len(sizes)),
            optimizer_bytes_per_row=state_bytes,
            bytes_per_rank=bytes_per_rank,
        )
    except PlacementError as error:
        raise PlacementError(f"{name}: {error}", error.table, error.missing_bytes) from None


def _load(source: Union[str, os.PathLike]) -> tuple[Any, str]:
    """Return the JSON object of a placement and its name for messages."""
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return _parsed(parse_json, source, "placement"), "placement"
    name = os.fspath(source)
    try:
        return _parsed(read_json, name), name
    except OSError as error:
        raise PlacementError(f"{name}: cannot read the placement file: {error.strerror}") from None


def _parsed(read: Callable[..., Any], *source: Any) -> Any:
    try:
        return read(*source, Any)
    except StructureError as error:
        raise PlacementError(str(error)) from None


def _agreed(document: dict[str, Any], key: str, expected: Any, name: str) -> Any:
    if key not in document:
        if expected is None:
            raise PlacementError(f"{name}: {key} is missing")
        return expected
    found = document[key]
    if isinstance(expected, (list, tuple)) and isinstance(found, list):
        if len(found) != len(expected):
            raise PlacementError(
                f"{name}: the file lists {len(found)} tables, this run has {len(expected)}"
            )
        for table, (size, run_size) in enumerate(zip(found, expected)):
            if size != run_size:
                raise PlacementError(
                    f"{name}: table {table} has {size!r} rows in the file, {run_size} in this run",
                    table,
                )
    elif expected is not None and found != expected:
        raise PlacementError(f"{name}: {key} is {found!r} in the file, {expected!r} in this run")
    return found


def _assignments(entries: Any, count: int) -> tuple[Assignment, ...]:
    if not isinstance(entries, list):
        raise PlacementError("'tables' is missing or not a list with one object per table")
    placed = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_integer(entry.get("table")):
            raise PlacementError(
                f"tables[{position}] is {json.dumps(entry)[:200]}, expected an object like "
                '{"table": 0, "kind": "table", "rank": 0}'
            )
        table = entry["table"]
        if not 0 <= table < count:
            raise PlacementError(
                f"table {table}: there are {count} tables, 0 to {count - 1}", table
            )
        if table in placed:
            raise PlacementError(f"table {table} is placed twice", table)
        placed[table] = _assignment(table, entry)
    missing = [table for table in range(count) if table not in placed]
    if missing:
        raise PlacementError(f"table {missing[0]} is not placed (of {count} tables)", missing[0])
    return tuple(placed[table] for table in range(count))


def _assignment(table: int, entry: dict[str, Any]) -> Assignment:
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise PlacementError(
            f"table {table}: kind is {kind!r}, expected one of {', '.join(KINDS)}", table
        )
    expected = {"table", "kind"} | _RANK_KEYS[kind]
    if set(entry) != expected:
        raise PlacementError(
            f"table {table}: a table of kind {kind!r} has the keys "
            f"{', '.join(sorted(expected))}; found {', '.join(sorted(entry))}",
            table,
        )
    if kind == "column":
        if not isinstance(entry["ranks"], list):
            raise PlacementError(f"table {table}: ranks is {entry['ranks']!r}, not a list", table)
        return Assignment(kind, tuple(entry["ranks"]))
    return Assignment(kind, (entry["rank"],) if kind == "table" else ())
