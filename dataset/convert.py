"""Converts a dataset between layouts: streaming, every value checked, in constant memory.

    python3 -m dataset.convert SRC DST --layout per_table

SRC is a dataset in any layout that is read (raw, three_file, per_table, DeepLearningExamples,
MLPerf v0.7, TorchRec), or one split of it; DST is a folder, for one raw split a file.
"""

import argparse
import os
import sys

from dataset import command_line, encode, foreign_layouts, layouts, metadata, transforms
from dataset.columns import TRANSFORMS
from dataset.opening import open_dataset
from dataset.rewrite import rewrite
from dataset.validate import open_any
from storage import atomic

#: Layouts that are written.
TARGETS = ("raw", "three_file", "per_table")


def convert_split(source, destination, layout, *, dense_transform=None, **options):
    """Writes one described split in another layout.

    Args:
        source: a `DatasetDescription`.
        destination: the folder, or for the raw layout the file.
        layout: "raw", "three_file" or "per_table".
        dense_transform: reads the source's counts with this transform instead of its own.
        **options: of `dataset.rewrite.rewrite`.

    Returns:
        Seconds that it took.

    Raises:
        DatasetError: as `dataset.rewrite.rewrite`.
    """
    if dense_transform is not None:
        source = transforms.with_transform(source, dense_transform)
    return rewrite(source, encode.encoding(source, layout), destination, **options)


def convert_dataset(sources, destination, layout, **options):
    """Writes the described train and test splits below `destination`; options as for one split.

    Returns:
        (description, path written, seconds) for each split.
    """
    names = layouts.RAW_FILES if layout == "raw" else ("train", "test")
    done = []
    for source, name in zip(sources, names):
        path = os.path.join(destination, name)
        done.append((source, path, convert_split(source, path, layout, **options)))
    if layout == "raw":
        _write_raw_sides(sources, destination)
    return done


def _write_raw_sides(sources, destination):
    """Writes beside raw files what they cannot hold themselves."""
    if any(source.attainable_auc is not None for source in sources):
        entries = {
            name: {"samples": source.samples, "attainable_auc": source.attainable_auc}
            for source, name in zip(sources, layouts.RAW_FILES)
        }
        path = os.path.join(destination, layouts.GENERATOR_FILE)
        atomic.write_json(path, {"files": entries})
    path = os.path.join(destination, metadata.VOCAB_FILE_NAME)
    atomic.write_json(path, sources[0].vocab_sizes)


def main(arguments=None):
    """Runs the command line; returns the exit status (see `dataset.command_line`)."""
    parser = argparse.ArgumentParser(
        prog="python3 -m dataset.convert", description=__doc__.partition("\n\n")[0]
    )
    parser.add_argument(
        "source", metavar="SRC", type=command_line.path, help="dataset, split folder or raw file"
    )
    parser.add_argument(
        "destination", metavar="DST", type=command_line.path, help="folder to write"
    )
    parser.add_argument("--layout", required=True, choices=TARGETS, help="layout to write")
    parser.add_argument("--source_layout", default="auto", help="SRC's (default: recognise it)")
    parser.add_argument("--vocab_sizes", metavar="LIST", help="for data that does not carry them")
    parser.add_argument(
        "--dense_transform",
        choices=list(TRANSFORMS),
        help="read SRC's stored counts with this transform instead of its own",
    )
    parser.add_argument(
        "--applied_transform", choices=list(TRANSFORMS), help=transforms.APPLIED_HELP
    )
    parser.add_argument("--overwrite", action="store_true", help="replace splits that are there")
    parser.add_argument(
        "--jobs", type=command_line.at_least_one, help="threads (default: about one for each core)"
    )
    parsed = parser.parse_args(arguments)
    return command_line.run("dataset.convert", lambda: _convert(parsed))


def _convert(parsed):
    options = {
        "dense_transform": parsed.dense_transform,
        "overwrite": parsed.overwrite,
        "jobs": parsed.jobs,
    }
    if os.path.isdir(parsed.source) and foreign_layouts.day_numbers(parsed.source):
        sizes = parsed.vocab_sizes
        if sizes is not None:
            sizes = metadata.parse_vocab_sizes(sizes, "--vocab_sizes")
        applied = parsed.applied_transform
        sources = list(
            open_dataset(parsed.source, parsed.source_layout, sizes, applied_transform=applied)
        )
    else:
        sources = open_any(
            parsed.source, parsed.source_layout, parsed.vocab_sizes, parsed.applied_transform
        )
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
        print(f"dataset.convert: {transforms.not_recorded(sources[0].path)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
