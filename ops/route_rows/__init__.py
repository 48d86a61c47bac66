"""Python wrappers of `Dlrm>RouteRows` and `Dlrm>RouteBags`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ops import loader
from ops.bags import Bags


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


class RoutedBags(NamedTuple):
    """The requests of one batch of bags, each for the sum of some rows of one owner.

    A *contribution* is a vector that is added to a bag's piece: a (sample, table, piece), numbered
    in this order.

    Attributes:
        rows: int32 [m], rows of the owners' variables, request by request.
        rows_requested: int32 [N], number of rows of each owner.
        sizes: int32 [n], number of rows of each request, sorted by owner.
        requested: int32 [N], number of requests to each owner.
        inverse_permutation: int32 [C], the vector of each contribution, sorted by bag.
        bag_segments: int32 [C], the bag of each contribution, ascending.
        permutation: int32 [C], the bag of each contribution, sorted by vector.
        vector_segments: int32 [C], the vector of each contribution, ascending. Without `unique`
            empty: contribution i is then that of vector i.
        counts: int32 [b, T], the number of ids where vectors are averaged and a table's rows are
            requested once, at least 1, else 1; [0, 0] without `unique`, or if all are summed.
        divisors: int32 [n], for a partial sum where vectors are averaged the number of ids of the
            complete bag, else 1; [0] if all are summed.
    """

    rows: tf.Tensor
    rows_requested: tf.Tensor
    sizes: tf.Tensor
    requested: tf.Tensor
    inverse_permutation: tf.Tensor
    bag_segments: tf.Tensor
    permutation: tf.Tensor
    vector_segments: tf.Tensor
    counts: tf.Tensor
    divisors: tf.Tensor


def route_bags(
    ids: tf.Tensor,
    bags: Bags,
    vocab_sizes: Sequence[int] | np.ndarray,
    owners: np.ndarray,
    bases: np.ndarray,
    steps: np.ndarray,
    ranks: int,
    unique: bool,
    name: str | None = None,
) -> RoutedBags:
    """Returns the sums of rows to request from each rank, and the bags that they belong to.

    Without `unique`, each bag requests one vector from each owner of its rows. With `unique`, a
    table's rows are each requested once instead if that is not more vectors in this batch.

    Args:
        ids: int32 [b, W].
        bags: the slots of the T tables.
        vocab_sizes: this and the others are those of `route_rows`. The pieces of a table are either
            all partitioned or none.
        owners: [T, P].
        bases: [T, P, N].
        steps: [T, P].
        ranks: N.
        unique: request rows once where that is less.
        name: of the op.

    Returns:
        The `RoutedBags`.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not built.
        tf.errors.InvalidArgumentError: an id is outside its table (table, sample, id and bound).
    """
    return RoutedBags(
        *loader.load().dlrm_route_bags(
            ids=ids,
            vocab_sizes=[int(size) for size in vocab_sizes],
            owners=[int(owner) for owner in owners.reshape(-1)],
            bases=[int(base) for base in bases.reshape(-1)],
            steps=[int(step) for step in steps.reshape(-1)],
            hotness=list(bags.hotness),
            mean=[pooling == "mean" for pooling in bags.pooling],
            variable=list(bags.variable),
            ranks=ranks,
            unique=unique,
            name=name,
        )
    )
