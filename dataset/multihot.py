"""Makes the MLPerf benchmark's synthetic multi-hot data from data with one id per feature.

    python3 -m dataset.multihot SRC DST --hotness mlperf

SRC is a dataset in any supported layout with one id per table, or one split of it; DST is a folder.
A sample's ids for a table are its id modulo the rows, and the ids in that row of a fixed random map
(see `dataset.multihot_maps`). Labels and dense values are those of SRC.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from dataset import command_line, convert, hotness
from dataset.chunks import Chunk, ChunkReader
from dataset.columns import CATEGORICAL, DatasetDescription
from dataset.command_line import add_source_arguments, open_source
from dataset.errors import DatasetError
from dataset.multihot_maps import DISTRIBUTIONS, MAX_SEED, MapRule, MultiHotMaps, draw
from ops.bags import POOLING, Bags
from storage.arguments import first_paragraph, whole_number
from storage.direct_io import ThreadBuffers

#: Larger maps are kept in a temporary file. The system caches what memory allows of it.
_MAX_MEMORY = 1 << 30


class ExpandedChunks(ChunkReader):
    """Reads chunks of one-hot data as multi-hot chunks; see `expanded_description`.

    Args:
        source: the one-hot data; its ids are taken modulo the rows of their tables.
        maps: the maps of all tables.
    """

    def __init__(self, source: DatasetDescription, maps: MultiHotMaps):
        super().__init__(source)
        self._maps = maps
        self._expanded = ThreadBuffers()

    def read(self, first: int, count: int) -> Chunk:
        """Returns samples as a `Chunk` with an array of ids int32 [count, hotness] per table."""
        chunk = super().read(first, count)
        ids = []
        for column in (column for part in chunk.ids for column in part.T):
            table = len(ids)
            shape = (count, self._maps.rule.hotness[table])
            out = self._expanded.array(table, shape, np.int32)
            ids.append(self._maps.expand(table, column, out))
        return chunk._replace(ids=ids)


def expanded_description(source: DatasetDescription, bags: Bags) -> DatasetDescription:
    """Returns the description of one-hot data with further ids, one column per table.

    The columns refer to the files of the one-hot data: read them with `ExpandedChunks`.

    Args:
        source: the one-hot data.
        bags: the ids of each table.

    Raises:
        DatasetError: the data already has several ids per table, or another number of tables.
    """
    if not source.bags.is_one_hot:
        found = f"hotness {list(source.bags.hotness)}"
        raise DatasetError.mismatch(source.path, "data to expand", "one id per table", found)
    columns = [column for column in source.columns if column.kind != CATEGORICAL]
    for column in source.table_columns:
        for table in column.tables:
            own = bags.select([table])
            columns.append(
                dataclasses.replace(
                    column,
                    dtype="int32",
                    width=own.slots,
                    stride=4 * own.slots,
                    first_table=table,
                    bags=None if own.is_one_hot else own,
                )
            )
    return dataclasses.replace(source, columns=tuple(columns))


def write_multi_hot(
    sources: Sequence[DatasetDescription],
    destination: str,
    rule: MapRule,
    pooling: str = "sum",
    layout: str = "per_table",
    **options: Any,
) -> list[tuple[DatasetDescription, str, float]]:
    """Writes the multi-hot version of one-hot splits.

    Args:
        sources: descriptions of train and test, or of one split.
        destination: the folder; for one split, the split's folder.
        rule: the maps.
        pooling: name in `ops.bags.POOLING`, recorded in the data.
        layout: layout to write, see `dataset.convert`.
        **options: see `dataset.rewrite.rewrite`.

    Returns:
        (description of the data written, path, seconds) of each split.

    Raises:
        DatasetError: as for `dataset.convert`; or the folder's disk has no room for the maps.
    """
    bags = Bags.of(rule.hotness, pooling)
    # Not by path: all days of a folder have one.
    one_hot = {source.fingerprint: source for source in sources}
    expanded = [expanded_description(source, bags) for source in sources]
    drawn: list[MultiHotMaps] = []

    def open_chunks(description):
        if not drawn:
            # Only now: the destination's folder exists and is claimed.
            folder = destination if os.path.isdir(destination) else os.path.dirname(destination)
            folder = None if rule.nbytes() <= _MAX_MEMORY else folder or os.curdir
            drawn.append(draw(rule, folder=folder, progress=options.get("progress", True)))
        return ExpandedChunks(one_hot[description.fingerprint], drawn[0])

    options["open_chunks"] = open_chunks
    if len(expanded) == 2:
        return convert.convert_dataset(expanded, destination, layout, **options)
    seconds = convert.convert_split(expanded[0], destination, layout, **options)
    return [(expanded[0], destination, seconds)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (see `dataset.command_line`)."""
    parser = argparse.ArgumentParser(
        prog="python3 -m dataset.multihot", description=first_paragraph(__doc__)
    )
    parser.add_argument(
        "source", metavar="SRC", type=command_line.path, help="dataset, split folder or raw file"
    )
    parser.add_argument(
        "destination", metavar="DST", type=command_line.path, help="folder to write"
    )
    parser.add_argument(
        "--hotness",
        dest="target_hotness",
        metavar="LIST",
        required=True,
        help="ids per sample of each table to write: comma-separated, a .json file with a list, or "
        "mlperf (DLRM-DCNv2: 214 in all)",
    )
    parser.add_argument(
        "--distribution",
        choices=DISTRIBUTIONS,
        default=DISTRIBUTIONS[0],
        help="distribution of the further ids (default: uniform, the benchmark's)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, MAX_SEED),
        default=0,
        help="random seed of the maps (default: 0, the benchmark's)",
    )
    parser.add_argument(
        "--pooling",
        dest="target_pooling",
        choices=POOLING,
        default=POOLING[0],
        help="how the vectors of a sample's ids become one (default: sum, the benchmark's)",
    )
    parser.add_argument(
        "--layout", choices=convert.TARGETS, default="per_table", help="layout to write"
    )
    parser.add_argument(
        "--source_layout", default="auto", help="layout of SRC (default: recognise it)"
    )
    add_source_arguments(parser, one_hot=True)
    parser.add_argument("--overwrite", action="store_true", help="replace existing splits")
    parser.add_argument(
        "--jobs",
        type=command_line.threads,
        help="threads (default: one per core and one more, at most 9)",
    )
    parsed = parser.parse_args(arguments)
    return command_line.run("dataset.multihot", lambda: _write(parsed))


def _write(parsed):
    numbers = hotness.parse_hotness(parsed.target_hotness, "--hotness")
    sources = open_source(parsed.source, parsed.source_layout, parsed, flat_days=True)
    rows = tuple(sources[0].vocab_sizes)
    rule = MapRule(rows, tuple(numbers), parsed.distribution, parsed.seed)
    options = {"overwrite": parsed.overwrite, "jobs": parsed.jobs}
    done = write_multi_hot(
        sources, parsed.destination, rule, parsed.target_pooling, parsed.layout, **options
    )
    for written, path, seconds in done:
        print(
            f"{path}: {written.samples} samples with {rule.bags.slots} ids each, {written.layout} "
            f"to {parsed.layout} in {seconds:.1f} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
