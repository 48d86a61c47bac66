"""Makes multi-hot batches from one-hot ones in memory, with the maps of `dataset.multihot_maps`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dataset.errors import DatasetError
from dataset.multihot_maps import MapRule, MultiHotMaps, draw


def maps_in_memory(
    rule: MapRule, tables: Sequence[int] | None = None, limit: int | None = None
) -> MultiHotMaps:
    """Draws the maps that `expanded` needs.

    Args:
        rule: the rule; its rows are the vocabulary sizes.
        tables: tables whose ids this process reads; default: all.
        limit: largest size in bytes; default: any.

    Raises:
        DatasetError: the maps are larger, or memory is exhausted.
    """
    needed = rule.nbytes(tables)
    if limit is not None and needed > limit:
        raise DatasetError(
            f"maps of the multi-hot data: expected at most {limit:,} bytes of memory, found "
            f"{needed:,}; write the multi-hot data with python3 -m dataset.multihot, which keeps "
            "the maps on the disk",
            flag="multi_hot",
            found=needed,
            bound=limit,
        )
    return draw(rule, tables)


def expanded(
    batches: tf.data.Dataset,
    maps: MultiHotMaps,
    tables: Sequence[int] | None = None,
    parallel: int = 2,
    prefetch: int = 4,
) -> tf.data.Dataset:
    """Returns the batches with multi-hot ids.

    Args:
        batches: batches as from `dataset.reader.batches`: dictionaries whose ``categorical`` is
            int32 [n, T], one id per table, below the rows of the table.
        maps: maps of the tables.
        tables: the tables of the batches' columns, in order; default: all of the maps' rule.
        parallel: batches expanded in parallel.
        prefetch: batches kept ready.

    Returns:
        The same dictionaries with ``categorical`` int32 [n, W]: the slots of the tables in order,
        for each table the given id and then its row of the map. Rows that are no samples have the
        bags of id 0.

    Raises:
        DatasetError: the maps lack a table, or the batches have another number of columns.
    """
    tables = list(range(len(maps.rule.rows)) if tables is None else tables)
    spec: Any = batches.element_spec
    columns = spec["categorical"].shape[1]
    if columns != len(tables):
        what = "columns of one-hot ids to expand"
        raise DatasetError.mismatch(None, what, len(tables), columns, flag="multi_hot")
    if maps.rule.bags.select(tables).is_one_hot:
        return batches
    further = {
        table: _shared_tensor(maps.array(table)) for table in tables if maps.rule.hotness[table] > 1
    }

    def expand(batch):
        parts = []
        for column, table in enumerate(tables):
            own = batch["categorical"][:, column : column + 1]
            parts.append(own)
            if table in further:
                parts.append(tf.gather(further[table], own[:, 0]))
        return {**batch, "categorical": tf.concat(parts, axis=1)}

    # Without AutoGraph, whose conversion would only take time.
    expand = tf.autograph.experimental.do_not_convert(expand)
    return batches.map(expand, num_parallel_calls=parallel, deterministic=True).prefetch(prefetch)


def _shared_tensor(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor that uses an array's memory: `tf.constant` would copy tens of gigabytes."""
    with tf.device("CPU:0"):
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
