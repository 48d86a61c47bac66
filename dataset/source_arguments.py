"""What the tools' command lines say of the data that they read, and its opening."""

from __future__ import annotations

import argparse
import os

from dataset import files, metadata
from dataset.columns import TRANSFORMS, DatasetDescription
from dataset.layouts import has_days
from dataset.opening import is_dataset, open_dataset, open_split
from dataset.stored_types import Declared
from dataset.transforms import APPLIED_HELP

_WORD_TYPES = ("int32", "float32")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for what a dataset's files do not say themselves."""
    parser.add_argument("--vocab_sizes", metavar="LIST", help="for data that does not carry them")
    for kind in ("label", "dense"):
        parser.add_argument(
            f"--{kind}_type",
            choices=_WORD_TYPES,
            help=f"type of the stored {kind} values, for data that does not say",
        )
    parser.add_argument(
        "--dense_transform",
        choices=list(TRANSFORMS),
        help="read the stored dense values with this transform instead of the layout's",
    )
    parser.add_argument("--applied_transform", choices=list(TRANSFORMS), help=APPLIED_HELP)


def open_source(
    path: str, layout: str, parsed: argparse.Namespace, *, flat_days: bool = False
) -> list[DatasetDescription]:
    """Describes all splits of a dataset, or the one split at `path`.

    Args:
        path: a dataset's folder, a split's folder, or a raw file.
        layout: a layout's name, or "auto".
        parsed: the command line, with the flags of `add_source_arguments`.
        flat_days: a folder of TorchRec's days is a dataset, whose last day is the test split, and
            not one split.

    Returns:
        One or two descriptions, train first.

    Raises:
        DatasetError: as `dataset.opening.open_split`.
    """
    sizes = None
    if parsed.vocab_sizes is not None:
        sizes = metadata.parse_vocab_sizes(parsed.vocab_sizes, "--vocab_sizes")
    declared = Declared(
        parsed.label_type, parsed.dense_type, parsed.dense_transform, parsed.applied_transform
    )
    folder = os.path.normpath(path)
    if files.is_folder(folder) and (is_dataset(folder) or (flat_days and has_days(folder))):
        return list(open_dataset(folder, layout, sizes, declared=declared))
    return [open_split(folder, layout, sizes, declared=declared)]
