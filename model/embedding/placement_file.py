"""Read placements from JSON files, which may be written by hand."""

import os
from collections.abc import Sequence
from typing import Annotated, Literal, Optional, TypedDict, Union

import msgspec

from model.embedding.placement import Placement
from model.embedding.shards import Assignment, PlacementError
from storage.structured import StructureError, read_json

_Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_RANK_KEYS: dict[str, set[str]] = {"table": {"rank"}, "column": {"ranks"}}


class _Ranks(TypedDict, total=False):
    rank: int
    ranks: list[int]


class _Entry(_Ranks):
    table: int
    kind: Literal["table", "column", "row", "replicated"]


class _Header(TypedDict, total=False):
    format: Literal["dlrm-placement"]
    version: Literal[1]
    ranks: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    dimension: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    vocab_sizes: list[Annotated[int, msgspec.Meta(ge=1, le=2**53)]]
    optimizer_bytes_per_row: _Bytes
    bytes_per_rank: Optional[_Bytes]


class _Document(_Header):
    tables: list[_Entry]


def read_placement(
    path: Union[str, os.PathLike],
    *,
    vocab_sizes: Sequence[int],
    dimension: int,
    ranks: int,
    optimizer_bytes_per_row: int = 0,
    bytes_per_rank: Optional[int] = None,
) -> Placement:
    """Read and check a placement.

    Args:
      path: the JSON file.
      vocab_sizes: the run's; the file's must be equal or absent.
      dimension: likewise.
      ranks: likewise.
      optimizer_bytes_per_row: see `Placement`.
      bytes_per_rank: memory of a rank; None: the file's.

    Raises:
      PlacementError: the file cannot be read, is wrong or contradicts the run.
    """
    name = os.fspath(path)
    try:
        document = read_json(name, _Document)
        _check_header(document, {"dimension": dimension, "ranks": ranks}, vocab_sizes)
        if bytes_per_rank is None:
            bytes_per_rank = document.get("bytes_per_rank")
        return Placement(
            vocab_sizes=tuple(vocab_sizes),
            dimension=dimension,
            ranks=ranks,
            assignments=_assignments(document["tables"], len(vocab_sizes)),
            optimizer_bytes_per_row=optimizer_bytes_per_row,
            bytes_per_rank=bytes_per_rank,
        )
    except OSError as error:
        raise PlacementError.of_path(
            name, f"cannot read the placement file: {error.strerror}"
        ) from None
    except StructureError as error:
        raise PlacementError.of(error) from None
    except PlacementError as error:
        raise PlacementError.of(
            error, f"{name}: ", path=name, missing_bytes=error.missing_bytes
        ) from None


def _check_header(document: _Document, run: dict[str, int], vocab_sizes: Sequence[int]) -> None:
    for key in document:
        known = _Document.__annotations__
        if key not in known:
            problem = f"unknown key {key!r}; expected only {', '.join(known)}"
            raise PlacementError(problem, found=key)
    for key, value in run.items():
        found = document.get(key, value)
        if found != value:
            problem = f"{key}: expected {value} as in this run, found {found}"
            raise PlacementError(problem, expected=value, found=found)
    sizes = document.get("vocab_sizes", vocab_sizes)
    expected, found = len(vocab_sizes), len(sizes)
    if found != expected:
        problem = f"vocab_sizes: expected {expected} tables as in this run, found {found}"
        raise PlacementError(problem, expected=expected, found=found)
    for table, (size, run_size) in enumerate(zip(sizes, vocab_sizes)):
        if size != run_size:
            raise PlacementError.of_table(
                table, f"expected {run_size} rows as in this run, found {size}", found=size
            )


def _assignments(entries: list[_Entry], count: int) -> tuple[Assignment, ...]:
    placed = {}
    for entry in entries:
        table, kind = entry["table"], entry["kind"]
        if not 0 <= table < count:
            problem = f"table {table} does not exist: expected 0 to {count - 1}"
            raise PlacementError(problem, table=table, bound=count)
        if table in placed:
            raise PlacementError.of_table(table, "is placed twice")
        keys = {"table", "kind"} | _RANK_KEYS.get(kind, set())
        if set(entry) != keys:
            raise PlacementError.of_table(
                table,
                f"expected the keys {', '.join(sorted(keys))} for kind {kind!r}, found "
                f"{', '.join(sorted(entry))}",
            )
        ranks = entry.get("ranks", [entry["rank"]] if "rank" in entry else [])
        placed[table] = Assignment(kind, tuple(ranks))
    for table in range(count):
        if table not in placed:
            raise PlacementError.of_table(table, f"has no placement ({count} tables)")
    return tuple(placed[table] for table in range(count))
