"""Python face of `Dlrm>RouteRows`."""

from ops import loader


def route_rows(ids, vocab_sizes, owners, bases, steps, ranks, unique, name=None):
    """Returns which rows to ask for, from whom, and how the answers belong to the samples.

    Shapes: b samples, T tables, P pieces of each table (1, or 2 where tables are halved by
    columns), N ranks, n requests: b * T * P of them, or fewer with `unique`.

    Args:
        ids: int32 [b, T].
        vocab_sizes: [T], rows of each table.
        owners: [T, P], the rank that holds a piece, -1 where its rows are dealt over the ranks
            (owner = id mod N, local row = id div N).
        bases: [T, P, N], row of each rank's variable where the piece's rows begin.
        steps: [T, P], rows of the variable from one local row to the next.
        ranks: N.
        unique: request no row twice.
        name: of the op.

    Returns:
        A namedtuple: `rows` int32 [n], rows of the owners' variables, sorted by owner; `requested`
        int32 [N], how many of each owner; `position` int32 [b * T * P], where in `rows` each
        needed row is; `order` int32 [n], the inverse of `position` where `unique` is False.

    Raises:
        ops.loader.LibraryNotBuiltError: the native library is not there.
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
