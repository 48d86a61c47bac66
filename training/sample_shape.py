"""The tables, ids and dense features of a sample, from the flags and a dataset's metadata.

This module does not import TensorFlow.
"""

from __future__ import annotations

from typing import NamedTuple

import dataset
from ops.bags import Bags
from training.config import DataConfig
from training.runtime.errors import UserError


class SampleShape(NamedTuple):
    """The features of a sample.

    Attributes:
        dense_features: number of dense features; None: 13.
        bags: the slots of each table's ids; None: one id per table.
    """

    dense_features: int | None = None
    bags: Bags | None = None


def of_dataset(data: DataConfig) -> tuple[tuple[int, ...], Bags, int]:
    """Returns each table's rows, the bags and the number of dense features of --data_dir.

    --vocab_sizes replaces the numbers of rows, and --hotness the bags.

    Raises:
        UserError: --vocab_sizes has another number of tables than the dataset, without --hotness;
            or --hotness has another number of tables.
        dataset.DatasetError: the folder is not a dataset, or is damaged.
    """
    if data.data_dir is None:
        raise ValueError("data_dir: expected a folder, found None")
    train = dataset.open_train(data.data_dir, data.data_layout)
    sizes, bags = tuple(train.vocab_sizes), train.bags
    if data.vocab_sizes is not None:
        sizes = data.table_sizes("")
    if data.hotness is not None:
        bags = Bags.of(data.ids_per_sample("hotness", len(sizes)))
    elif len(sizes) != bags.features:
        problem = (
            f"expected {bags.features} tables, as in {data.data_dir}, or --hotness, "
            f"found {len(sizes)}"
        )
        raise UserError.of_flag("vocab_sizes", data.vocab_sizes, problem, path=data.data_dir)
    return sizes, bags, train.dense_features


def made_hotness(data: DataConfig, stored: Bags) -> tuple[int, ...]:
    """Returns the ids per sample for each table that --multi_hot makes of stored ids.

    Args:
        data: with --multi_hot.
        stored: the bags of the dataset.

    Raises:
        UserError: the dataset has not one id per table, or another number of tables.
    """
    if not stored.is_one_hot:
        problem = f"expected one id per table in {data.data_dir}, found multi-hot data"
        raise UserError.of_flag("multi_hot", data.multi_hot, problem, path=data.data_dir)
    return data.ids_per_sample("multi_hot", stored.features)
