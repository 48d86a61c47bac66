"""What SOK cannot do, said before anything is built; docs/sok.md has the reasons."""

from __future__ import annotations

from model.embedding.interface import BackendError, Ranks
from model.embedding.optimizers import OptimizerError, RowOptimizer, find
from model.embedding.placement import Placement


def check(
    api: int, placement: Placement, cluster: Ranks, compress: bool, optimizer: str | RowOptimizer
) -> None:
    """Refuses what cannot take effect with SOK; arguments as for `SokEmbedding`.

    Raises:
        BackendError: one line with what to do instead.
    """
    try:
        find(optimizer)
    except OptimizerError as error:
        raise BackendError(str(error)) from error
    if placement.column_wise_tables or placement.replicated_tables:
        table = (*placement.column_wise_tables, *placement.replicated_tables)[0]
        raise BackendError(
            f"table {table} is placed {placement.assignments[table].kind!r}: SOK knows row-wise "
            "and whole tables only; go without --column_split and --replicate_below_rows, or take "
            "--embedding_backend=native"
        )
    whole = placement.table_wise_tables
    if whole and api == 1:
        raise BackendError(
            f"table {whole[0]} is placed whole: SOK 1.x deals the rows of every table over all "
            "ranks; take --placement=row, SOK 2.x or --embedding_backend=native"
        )
    if whole and compress:
        raise BackendError(
            f"--compress has no effect on whole tables, of which table {whole[0]} is one: SOK's "
            "lookup_sparse takes the same number of ids on every rank; take --placement=row"
        )
    empty = [rank for rank in range(cluster.size) if not placement.tables_of(rank)]
    if whole and empty:
        raise BackendError(
            f"rank {empty[0]} would hold no whole table: SOK's lookup_sparse needs one on every "
            "rank; take --placement=row or fewer ranks"
        )
    if api == 1 and cluster.local_size != cluster.size:
        raise BackendError(
            f"SOK 1.x numbers GPUs by their local rank and works on one host only, but "
            f"{cluster.local_size} of {cluster.size} ranks are on this one; take SOK 2.x"
        )
