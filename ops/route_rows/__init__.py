"""Python wrapper of `Dlrm>RouteRows`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ops import loader


class RoutedRows(NamedTuple):
    """The requests of one batch.

    Attributes:
        rows: int32 [n], rows of the owners' variables, sorted by owner.
        requested: int32 [N], number of rows of each owner.
        position: int32 [b * T * P], index in `rows` of each needed row.
        order: int32 [n], the inverse of `position` where `unique` is False.
    """

    rows: tf.Tensor
    requested: tf.Tensor
    position: tf.Tensor
    order: tf.Tensor


def route_rows(
    ids: tf.Tensor,
    vocab_sizes: Sequence[int] | np.ndarray,
    owners: np.ndarray,
    bases: np.ndarray,
    steps: np.ndarray,
    ranks: int,
    unique: bool,
    name: str | None = None,
) -> RoutedRows:
    """Returns the rows to request from each rank, and their positions among the samples.

    Shapes: b samples, T tables, P pieces of each table (1, or 2 where tables are halved by
    columns), N ranks, n requests: b * T * P of them, or fewer with `unique`.

    Args:
        ids: int32 [b, T].
        vocab_sizes: [T], rows of each table.
        owners: [T, P], the rank that holds a piece, -1 where its rows are partitioned over the
            ranks (owner = id mod N, local row = id div N).
        bases: [T, P, N], row of each rank's variable where the piece's rows begin.
        steps: [T, P], rows of the variable from one local row to the next.
        ranks: N.
        unique: request no row twice.
        name: of the op.

    Returns:
        The `RoutedRows`.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        tf.errors.InvalidArgumentError: an id is outside its table (table, sample, id and bound).
    """
    return loader.load().dlrm_route_rows(
        ids=ids,
        vocab_sizes=[int(size) for size in vocab_sizes],
        owners=[int(owner) for owner in owners.reshape(-1)],
        bases=[int(base) for base in bases.reshape(-1)],
        steps=[int(step) for step in steps.reshape(-1)],
        ranks=ranks,
        unique=unique,
        name=name,
    )
