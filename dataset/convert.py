"""Converts a dataset to another layout and checks every value, in constant memory.

    python3 -m dataset.convert SRC DST --layout per_table

SRC is a dataset in any supported layout (raw, three_file, per_table, DeepLearningExamples,
MLPerf v0.7, TorchRec), or one split of it. DST is a folder; for one raw split it is a file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from dataset import command_line, encode, layouts, metadata, ownership, transforms, vocabularies
from dataset.columns import DatasetDescription
from dataset.command_line import add_source_arguments, open_source
from dataset.destination import Destination
from dataset.errors import DatasetError
from dataset.rewrite import rewrite
from storage.arguments import first_paragraph
from storage.claim import Claim, ClaimError

#: Layouts that can be written.
TARGETS = ("raw", "three_file", "per_table")


def convert_split(
    source: DatasetDescription, destination: str, layout: str, **options: Any
) -> float:
    """Writes one described split in another layout, one of `TARGETS`; returns the seconds.

    Next to a raw file, it writes a metadata.json if a table has several ids. For the layout, the
    destination and the options see `dataset.rewrite.rewrite`.
    """
    return rewrite(source, encode.encoding(source, layout), destination, **options)


def convert_dataset(
    sources: Sequence[DatasetDescription],
    destination: str,
    layout: str,
    *,
    overwrite: bool = False,
    **options: Any,
) -> list[tuple[DatasetDescription, str, float]]:
    """Writes the described train and test splits into the folder `destination`.

    After an interruption, the same call replaces the incomplete files.

    Args:
        sources: descriptions of train and test.
        destination: the folder.
        layout: "raw", "three_file" or "per_table".
        overwrite: replace existing splits that this project wrote.
        **options: see `dataset.rewrite.rewrite`.

    Returns:
        (description, path written, seconds) for each split.

    Raises:
        DatasetError: as for `convert_split`; if a split exists, nothing is written.
    """
    raw = layout == "raw"
    names = layouts.RAW_FILES if raw else ("train", "test")
    paths = [os.path.join(destination, name) for name in names]
    for source in sources:
        encode.encoding(source, layout)  # Fails before a folder is created.
    os.makedirs(destination, exist_ok=True)
    done = []
    try:
        with Claim(destination) as claim:
            allowed = [overwrite or name in claim.leftovers for name in names]
            for path, may_replace in zip(paths, allowed):
                if not may_replace:
                    Destination(path, layout).refuse_complete()
            if raw:
                _check_raw_sides(claim, destination, sources[0], overwrite)
            for source, path, name, may_replace in zip(sources, paths, names, allowed):
                encoding = encode.encoding(source, layout)
                seconds = rewrite(
                    source, encoding, path, overwrite=may_replace, describe=False, **options
                )
                claim.record([name])
                done.append((source, path, seconds))
            if raw:
                train = sources[0]
                ownership.record_dataset(destination, train.vocab_sizes, {}, train.bags)
    except ClaimError as error:
        raise DatasetError.of_os(error) from error
    return done


def _check_raw_sides(claim, destination, train, overwrite):
    """Checks that the files next to raw files may be written: none replaces a user's file."""
    owned = ownership.raw_files(destination) if overwrite else claim.leftovers
    ownership.check_vocab_sizes(
        destination, train.vocab_sizes, replaceable=vocabularies.FILE_NAME in owned
    )
    ownership.check_raw_metadata(
        destination,
        ownership.raw_metadata(train.vocab_sizes, train.bags),
        replaceable=metadata.FILE_NAME in owned,
    )
    ownership.check_generator(destination)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (see `dataset.command_line`)."""
    parser = argparse.ArgumentParser(
        prog="python3 -m dataset.convert", description=first_paragraph(__doc__)
    )
    parser.add_argument(
        "source", metavar="SRC", type=command_line.path, help="dataset, split folder or raw file"
    )
    parser.add_argument(
        "destination", metavar="DST", type=command_line.path, help="folder to write"
    )
    parser.add_argument("--layout", required=True, choices=TARGETS, help="layout to write")
    parser.add_argument(
        "--source_layout", default="auto", help="layout of SRC (default: recognise it)"
    )
    add_source_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace existing splits")
    parser.add_argument(
        "--jobs",
        type=command_line.threads,
        help="threads (default: one per core and one more, at most 9)",
    )
    parsed = parser.parse_args(arguments)
    return command_line.run("dataset.convert", lambda: _convert(parsed))


def _convert(parsed):
    options = {"overwrite": parsed.overwrite, "jobs": parsed.jobs}
    sources = open_source(parsed.source, parsed.source_layout, parsed, flat_days=True)
    if len(sources) == 2:
        done = convert_dataset(sources, parsed.destination, parsed.layout, **options)
    else:
        seconds = convert_split(sources[0], parsed.destination, parsed.layout, **options)
        done = [(sources[0], parsed.destination, seconds)]
    for source, path, seconds in done:
        size = source.samples * source.bytes_per_sample / 1e9
        print(
            f"{path}: {source.samples} samples, {source.layout} to {parsed.layout}; read "
            f"{size:.2f} GB in {seconds:.1f} s ({size / seconds:.2f} GB/s)"
        )
    if sources[0].effective_transform is None:
        print(
            f"dataset.convert: {transforms.unknown_transform_message(sources[0].path)}",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
