"""Bags of ids in NumPy float64: random ids, pooled vectors, and the gradients of rows."""

import numpy as np

from ops.bags import EMPTY, Bags


def mixed_bags(rng, features):
    """Returns bags with 1 to 6 slots; both poolings, and lists of fixed and varying length."""
    kinds = [(pooling, variable) for pooling in ("sum", "mean") for variable in (False, True)]
    kinds = [kinds[i % len(kinds)] for i in rng.permutation(features)]
    hotness = rng.permutation([1, 2, 6, *rng.integers(1, 7, features)][:features])
    pooling, variable = zip(*kinds)
    return Bags.of([int(ids) for ids in hotness], pooling, variable)


def random_ids(rng, bags, sizes, shape):
    """Returns int32 [*shape, W]: ids below `sizes` [T], with `EMPTY` after some variable lists."""
    ids = rng.integers(0, np.asarray(sizes)[bags.feature_of_slots()], (*shape, bags.slots))
    for slots, variable in zip(slots_of_features(bags), bags.variable):
        if variable:
            lengths = rng.integers(0, slots.stop - slots.start + 1, shape)
            ids[..., slots][np.arange(slots.stop - slots.start) >= lengths[..., None]] = EMPTY
    return ids.astype(np.int32)


def slots_of_features(bags):
    """Returns the slice of each feature's slots."""
    return [slice(first, first + ids) for first, ids in zip(bags.first_slots, bags.hotness)]


def shares(bags, ids):
    """Returns, for each feature, its ids [..., hotness] and their factors in the pooled vector."""
    found = []
    for slots, pooling in zip(slots_of_features(bags), bags.pooling):
        used = ids[..., slots] != EMPTY
        counts = np.maximum(used.sum(-1, keepdims=True), 1) if pooling == "mean" else 1
        found.append((ids[..., slots], used / counts))
    return found


def pool(bags, ids, tables):
    """Returns the pooled vectors [..., T, D] of ids [..., W]."""
    return np.stack(
        [
            (np.asarray(table, "f8")[own] * factors[..., None]).sum(-2)
            for table, (own, factors) in zip(tables, shares(bags, ids))
        ],
        axis=-2,
    )


def row_gradients(bags, ids, gradients, sizes):
    """Returns the gradients of each table's rows, [rows, D], and which rows occur, [rows].

    Args:
        bags: the slots of T tables.
        ids: [..., W].
        gradients: of the pooled vectors, [..., T, D].
        sizes: rows of each table.
    """
    found = []
    for table, (own, factors) in enumerate(shares(bags, ids)):
        sums, used = np.zeros((sizes[table], gradients.shape[-1])), np.zeros(sizes[table], bool)
        parts = np.asarray(gradients, "f8")[..., table, None, :] * factors[..., None]
        np.add.at(sums, own[own != EMPTY], parts[own != EMPTY])
        used[own[own != EMPTY]] = True
        found.append((sums, used))
    return found
