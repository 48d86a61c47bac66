"""Splits one raw Criteo binary into column files and metadata.json.

    python3 split_bin.py train_data.bin $DATA/train

SRC holds records of little-endian 4-byte words: the label, 13 dense counts, one id per table
(160 bytes with 26 tables) or several (--hotness). DST becomes a folder that main.py reads. It holds
label.bin, dense.bin and category.bin; with --split_categories, it has one narrow file per table
instead of category.bin.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from storage import program_start

if __name__ == "__main__":
    program_start.begin()

import numpy as np

from dataset import command_line, encode, files, layouts, metadata, transforms, vocabularies
from dataset.chunks import CHUNK_SAMPLES, ChunkReader, largest_ids
from dataset.columns import TRANSFORMS
from dataset.errors import DatasetError
from dataset.hotness import check_recorded_pooling
from dataset.opening import open_split
from dataset.rewrite import each_chunk, rewrite
from dataset.stored_types import Declared
from ops.bags import Bags
from storage.arguments import first_paragraph


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(description=first_paragraph(__doc__))
    parser.add_argument("source", metavar="SRC", type=command_line.path, help="raw binary file")
    parser.add_argument(
        "destination",
        metavar="DST",
        type=command_line.path,
        help="folder to write, e.g. DATA/train",
    )
    parser.add_argument(
        "--vocab_sizes",
        "--slot_size_array",
        metavar="LIST",
        help="rows of each table, e.g. '[39884406, 39043, ...]' (default: from "
        "../train/metadata.json if DST is named test, else from vocab_sizes.json next to SRC, else "
        "from a scan of SRC)",
    )
    parser.add_argument(
        "--split_categories",
        action="store_true",
        help="write the per-table layout: label as bool, transformed dense values as float16, and "
        "one file of ids per table, as int8, int16 or int32 depending on its size",
    )
    parser.add_argument(
        "--dense_transform",
        choices=list(TRANSFORMS),
        help="transform of the dense counts; the reader applies it, or with --split_categories "
        f"this program (default: {layouts.RAW_TRANSFORM})",
    )
    parser.add_argument(
        "--dense_log",
        type=_boolean,
        metavar="BOOL",
        help="the seed benchmark's form of --dense_transform: True means log(x+3), False none",
    )
    words: dict[str, Any] = {"choices": ["int32", "float32"]}
    parser.add_argument("--label_type", help="type of SRC's label (default: int32)", **words)
    parser.add_argument("--dense_type", help="type of SRC's dense values (default: int32)", **words)
    parser.add_argument(
        "--category_type",
        help="type of SRC's ids (default: int32)",
        choices=["int32"],
        default="int32",
    )
    parser.add_argument(
        "--applied_transform",
        choices=list(TRANSFORMS),
        help="transform applied before SRC's float32 dense values were stored; none means counts",
    )
    command_line.add_bag_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing split")
    parser.add_argument(
        "--jobs",
        type=command_line.threads,
        help="threads (default: one per core and one more, at most 9)",
    )
    parsed = parser.parse_args(arguments)
    if parsed.dense_log is not None:
        if parsed.dense_transform is not None:
            parser.error("--dense_log and --dense_transform set the same option; give only one")
        parsed.dense_transform = layouts.SEED_TRANSFORM if parsed.dense_log else "none"
    if parsed.dense_transform is None and parsed.applied_transform not in (None, "none"):
        parsed.dense_transform = "none"
    return parsed


def _boolean(text):
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, found {text!r}")


def find_vocab_sizes(given: str | None, source: str, destination: str) -> list[int] | None:
    """Returns the vocabulary sizes, or None if only a scan can find them.

    Args:
        given: the flag --vocab_sizes, or None.
        source: the raw file.
        destination: the folder to write.

    Raises:
        DatasetError: the sizes are malformed, or differ from those of the train split.
    """
    sizes = vocabularies.parse_sizes(given, "--vocab_sizes") if given is not None else None
    train, content = _train_metadata(destination)
    if content is not None:
        wrong = sizes and vocabularies.difference(
            sizes, content["vocab_sizes"], "the given list", train
        )
        if wrong:
            problem = f"--vocab_sizes: expected the sizes of {train}: {wrong}"
            raise DatasetError(problem, flag="vocab_sizes", path=train)
        return content["vocab_sizes"]
    if sizes is not None:
        return sizes
    content = layouts.raw_metadata(os.path.abspath(source))
    if content is not None:
        return content["vocab_sizes"]
    return vocabularies.find_sizes(os.path.dirname(os.path.abspath(source)))


def find_bags(
    hotness: Sequence[int] | None, pooling: Sequence[str] | None, destination: str
) -> tuple[Sequence[int] | None, Sequence[str] | None]:
    """Returns (hotness, pooling) as given, or those of the train split for a test split.

    Args:
        hotness: ids of each feature from the command line, or None.
        pooling: names from the command line, or None.
        destination: the folder to write.

    Raises:
        DatasetError: the given hotness or pooling differs from the train split's, or the train
            split has lists of varying length, which raw records cannot hold.
    """
    train, content = _train_metadata(destination)
    if content is None:
        return hotness, pooling
    bags = metadata.bags(content, train)
    if any(bags.variable):
        table = bags.variable.index(True)
        what = f"{train}: a test split from raw records needs a train split with"
        found = f"lists of up to {bags.hotness[table]} ids for table {table}"
        raise DatasetError(
            f"{what} lists of fixed length, found {found}; write both splits from the same data",
            path=train, table=table,
        )  # fmt: skip
    if hotness is not None and tuple(hotness) != bags.hotness:
        what = f"--hotness: expected that of {train}"
        raise DatasetError.mismatch(None, what, list(bags.hotness), list(hotness), flag="hotness")
    if bags.is_one_hot:
        return hotness, pooling
    if metadata.records_pooling(content):
        check_recorded_pooling(train, bags, pooling)
    return bags.hotness, bags.pooling if pooling is None else pooling


def _train_metadata(destination):
    """Returns (folder, content of its metadata.json) of the train split of a test split.

    The content is None for another split, or if the train split has none.
    """
    destination = os.path.abspath(destination)
    train = os.path.join(os.path.dirname(destination), "train")
    if os.path.basename(destination) != "test" or not files.is_folder(train):
        return train, None
    return train, metadata.read(train)


def scan_vocab_sizes(
    path: str,
    tables: int = 26,
    jobs: int | None = None,
    progress: bool = True,
    hotness: Sequence[int] | None = None,
) -> list[int]:
    """Returns the smallest sizes that hold a raw file's ids: each table's largest id plus one.

    Args:
        path: the file.
        tables: number of tables.
        jobs: number of threads; default: one per core, at most 8.
        progress: show a progress bar.
        hotness: ids of each table; default: one.

    Raises:
        DatasetError: an id is negative, or the file is empty.
    """
    bags = Bags.one_hot(tables) if hotness is None else Bags.of(hotness)
    tables = bags.features
    description = layouts.describe_raw(path, [vocabularies.MAX_ROWS] * tables, bags=bags)
    if not description.samples:
        raise DatasetError.of_path(path, "samples: expected at least 1, found 0", bound=1)
    largest = np.zeros((-(-description.samples // CHUNK_SAMPLES), tables), np.int64)

    def work(block, first, count):
        ids = largest_ids(reader.read(first, count).ids[0])
        largest[block] = np.maximum.reduceat(ids, bags.first_slots)

    with ChunkReader(description) as reader:
        each_chunk(description.samples, work, description.bytes_per_sample, "scan", jobs, progress)
    sizes = largest.max(axis=0) + 1
    if (sizes > vocabularies.MAX_ROWS).any():
        table = int(np.argmax(sizes > vocabularies.MAX_ROWS))
        found = int(sizes[table]) - 1 - 2**32
        problem = f"table {table}: id: expected 0 to {vocabularies.MAX_ROWS - 1}, found {found}"
        raise DatasetError.of_path(path, problem, table=table, found=found)
    return [int(size) for size in sizes]


def split(parsed: argparse.Namespace) -> int:
    """Splits SRC into DST according to the command line; returns the exit status."""
    files.size(parsed.source)  # Fails before the first message.
    sizes = find_vocab_sizes(parsed.vocab_sizes, parsed.source, parsed.destination)
    hotness, pooling = find_bags(*command_line.parse_bags(parsed), parsed.destination)
    if sizes is None:
        print(
            f"split_bin.py: unknown vocabulary sizes: scanning {parsed.source} for them",
            file=sys.stderr,
        )
        sizes = scan_vocab_sizes(parsed.source, jobs=parsed.jobs, hotness=hotness)
    declared = Declared(
        parsed.label_type, parsed.dense_type, parsed.dense_transform, parsed.applied_transform,
        hotness, pooling,
    )  # fmt: skip
    source = open_split(parsed.source, "raw", sizes, declared=declared)
    layout = "per_table" if parsed.split_categories else "three_file"
    seconds = rewrite(
        source,
        encode.encoding(source, layout),
        parsed.destination,
        overwrite=parsed.overwrite,
        jobs=parsed.jobs,
    )
    size = source.samples * source.bytes_per_sample
    print(
        f"{parsed.destination}: {source.samples} samples, {layout}, {len(sizes)} tables with "
        f"{sum(sizes)} rows{_ids_text(source.bags)}, dense {source.dense_transform}; read "
        f"{size / 1e9:.2f} GB in {seconds:.1f} s ({size / 1e9 / seconds:.2f} GB/s)"
    )
    if source.effective_transform is None:
        print(
            f"split_bin.py: {transforms.unknown_transform_message(parsed.destination)}",
            file=sys.stderr,
        )
    return 0


def _ids_text(bags):
    return "" if bags.is_one_hot else f", {bags.slots} ids per sample"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (see `dataset.command_line`)."""
    parsed = parse_arguments(arguments)
    return command_line.run("split_bin.py", lambda: split(parsed))


if __name__ == "__main__":
    sys.exit(main())
