"""Read and write placements as JSON files, which may be edited by hand."""

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
    """Read and check a placement.

    Args:
      source: JSON text (its first character is `{`) or the path of a file.
      vocab_sizes: the run's; the file's must be equal or absent.
      dimension: likewise.
      ranks: likewise.
      optimizer_bytes_per_row: overrides the file's.
      bytes_per_rank: overrides the file's.

    Raises:
      PlacementError: the file cannot be read, is wrong or contradicts the run.
    """
    document, name = _load(source)
    try:
        return _placement(
            document, name, vocab_sizes, dimension, ranks, optimizer_bytes_per_row, bytes_per_rank
        )
    except (PlacementError, StructureError) as error:
        text = str(error)
        raise PlacementError(
            text if text.startswith(name) else f"{name}: {text}",
            missing_bytes=getattr(error, "missing_bytes", None),
            **{**error.fields, "path": name},
        ) from None


def _placement(
    document: Any,
    name: str,
    vocab_sizes: Optional[Sequence[int]],
    dimension: Optional[int],
    ranks: Optional[int],
    optimizer_bytes_per_row: Optional[int],
    bytes_per_rank: Optional[int],
) -> Placement:
    if not isinstance(document, dict):
        found = type(document).__name__
        raise PlacementError(f"expected a JSON object, found {found}", found=found)
    for key in document:
        if key not in _KEYS:
            raise PlacementError(
                f"expected the keys {', '.join(_KEYS)}, found {key!r}", expected=_KEYS, found=key
            )
    found = document.get("format", FORMAT), document.get("version", VERSION)
    if found != (FORMAT, VERSION):
        raise PlacementError(
            f"expected format {FORMAT!r} version {VERSION}, found {found[0]!r} {found[1]!r}",
            expected=(FORMAT, VERSION),
            found=found,
        )
    check_shape(document, name, _Document)
    sizes = _agreed(document, "vocab_sizes", vocab_sizes)
    if optimizer_bytes_per_row is None:
        optimizer_bytes_per_row = int(document.get("optimizer_bytes_per_row", 0))
    if bytes_per_rank is None:
        bytes_per_rank = document.get("bytes_per_rank")
    return Placement(
        vocab_sizes=tuple(sizes),
        dimension=_agreed(document, "dimension", dimension),
        ranks=_agreed(document, "ranks", ranks),
        assignments=_assignments(document.get("tables"), len(sizes)),
        optimizer_bytes_per_row=optimizer_bytes_per_row,
        bytes_per_rank=bytes_per_rank,
    )


def _load(source: Union[str, os.PathLike]) -> tuple[Any, str]:
    """Return the JSON value of a placement and its name in messages."""
    if isinstance(source, str) and source.lstrip().startswith("{"):
        return _parsed(parse_json, source, "placement"), "placement"
    name = os.fspath(source)
    try:
        return _parsed(read_json, name), name
    except OSError as error:
        raise PlacementError(
            f"{name}: cannot read the placement file: {error.strerror}", path=name
        ) from None


def _parsed(read: Callable[..., Any], *source: Any) -> Any:
    try:
        return read(*source, Any)
    except StructureError as error:
        raise PlacementError(str(error), **error.fields) from None


def _agreed(document: dict[str, Any], key: str, expected: Any) -> Any:
    """Return the file's value, or the run's if it is absent; they must not differ."""
    if key not in document:
        if expected is None:
            raise PlacementError(f"{key} is missing")
        return expected
    found = document[key]
    if isinstance(expected, (list, tuple)) and isinstance(found, list):
        if len(found) != len(expected):
            raise PlacementError(
                f"expected the run's {len(expected)} tables, found {len(found)}",
                expected=len(expected),
                found=len(found),
            )
        for table, (size, run_size) in enumerate(zip(found, expected)):
            if size != run_size:
                raise PlacementError(
                    f"table {table}: expected the run's {run_size} rows, found {size!r}",
                    table=table,
                    expected=run_size,
                    found=size,
                )
    elif expected is not None and found != expected:
        raise PlacementError(
            f"{key}: expected the run's {expected!r}, found {found!r}",
            expected=expected,
            found=found,
        )
    return found


def _assignments(entries: Any, count: int) -> tuple[Assignment, ...]:
    if not isinstance(entries, list):
        raise PlacementError("'tables': expected a list with one object per table, found none")
    placed = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_integer(entry.get("table")):
            raise PlacementError(
                f'tables[{position}]: expected an object like {{"table": 0, "kind": "table", '
                f'"rank": 0}}, found {json.dumps(entry)[:200]}',
                found=entry,
            )
        table = entry["table"]
        if not 0 <= table < count:
            raise PlacementError(
                f"expected a table from 0 to {count - 1}, found {table}",
                table=table,
                bound=count,
            )
        if table in placed:
            raise PlacementError(f"table {table} is placed twice", table=table)
        placed[table] = _assignment(table, entry)
    missing = [table for table in range(count) if table not in placed]
    if missing:
        raise PlacementError(
            f"table {missing[0]} (of {count} tables) has no placement", table=missing[0]
        )
    return tuple(placed[table] for table in range(count))


def _assignment(table: int, entry: dict[str, Any]) -> Assignment:
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise PlacementError(
            f"table {table}: expected a kind of {', '.join(KINDS)}, found {kind!r}",
            table=table,
            expected=KINDS,
            found=kind,
        )
    expected = {"table", "kind"} | _RANK_KEYS[kind]
    if set(entry) != expected:
        raise PlacementError(
            f"table {table}: expected the keys {', '.join(sorted(expected))} for kind {kind!r}, "
            f"found {', '.join(sorted(entry))}",
            table=table,
            expected=expected,
            found=set(entry),
        )
    if kind == "column":
        if not isinstance(entry["ranks"], list):
            raise PlacementError(
                f"table {table}: expected a list of two ranks, found {entry['ranks']!r}",
                table=table,
                found=entry["ranks"],
            )
        return Assignment(kind, tuple(entry["ranks"]))
    return Assignment(kind, (entry["rank"],) if kind == "table" else ())
