"""Shared by the data tools' command lines: exit statuses, argument types, flags of a source."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from dataset import files, hotness, vocabularies
from dataset.columns import TRANSFORMS, DatasetDescription
from dataset.errors import DatasetError
from dataset.layouts import has_days
from dataset.opening import is_dataset, open_dataset, open_split
from dataset.preprocessing.errors import PreprocessError
from dataset.stored_types import Declared
from dataset.transforms import APPLIED_HELP
from storage.arguments import whole_number
from storage.paths import NotLocalError, check_local

#: Exit code of errors that the user can fix; argparse uses the same one.
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
#: Argparse types: a count, such as of samples (the bound is more than any disk holds), and a number
#: of threads (more threads than cores cost memory and gain nothing).
at_least_one = whole_number(1, 10**15)
threads = whole_number(1, 1024)
#: Stored types of 4-byte label and dense values.
_WORD_TYPES = ("int32", "float32")


def path(text: str) -> str:
    """Returns an argument that is a local path: a type for argparse."""
    if not text:
        # An unset shell variable: the user does not mean the current folder.
        raise argparse.ArgumentTypeError("expected a path, found nothing")
    try:
        check_local(text)
    except NotLocalError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def run(name: str, job: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Runs a tool; returns its status, 2 after an error, or 130 after an interrupt.

    Prints an error that the user can fix as one line on standard error. Other errors propagate.

    Args:
        name: name of the tool, the prefix of messages.
        job: the tool; returns its exit status.
        interrupted: message when the user interrupts the tool.
    """
    try:
        return job()
    except (DatasetError, PreprocessError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:  # For example a full disk, or a folder without write permission.
        where = "" if error.filename is None else f"{error.filename}: "
        # Tools only create folders, and accept existing ones.
        is_file = isinstance(error, FileExistsError)
        what = "is a file: expected a folder" if is_file else error.strerror or error
        print(f"{name}: {where}{what}", file=sys.stderr)
        return EXIT_USER_ERROR
    except MemoryError as error:
        print(f"{name}: not enough memory: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED


def add_source_arguments(parser: argparse.ArgumentParser, *, one_hot: bool = False) -> None:
    """Adds the flags for facts that a dataset's files may not record.

    Args:
        parser: the parser.
        one_hot: whether the dataset has one id per feature: leaves out `add_bag_arguments`.
    """
    parser.add_argument(
        "--vocab_sizes", metavar="LIST", help="rows of each table, for data that does not record it"
    )
    for kind in ("label", "dense"):
        parser.add_argument(
            f"--{kind}_type",
            choices=_WORD_TYPES,
            help=f"type of the stored {kind} values, for data that does not record it",
        )
    parser.add_argument(
        "--dense_transform",
        choices=list(TRANSFORMS),
        help="transform to apply to the stored dense values, instead of the layout's",
    )
    parser.add_argument("--applied_transform", choices=list(TRANSFORMS), help=APPLIED_HELP)
    if one_hot:
        parser.set_defaults(hotness=None, pooling=None)
    else:
        add_bag_arguments(parser)


def add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for several ids per categorical feature."""
    parser.add_argument(
        "--hotness",
        metavar="LIST",
        help="ids per sample of each categorical feature, for data that does not record it: "
        "comma-separated integers, a .json file with a list, or mlperf (DLRM-DCNv2)",
    )
    parser.add_argument(
        "--pooling",
        metavar="LIST",
        help="how the vectors of a feature's ids become one, sum or mean: one name, or one for "
        "each feature (comma-separated, or a .json file with a list; default: sum)",
    )


def parse_bags(parsed: argparse.Namespace) -> tuple[list[int] | None, list[str] | None]:
    """Returns the hotness and the pooling that the flags of `add_bag_arguments` give.

    Raises:
        DatasetError: a flag is malformed.
    """
    ids, pooling = parsed.hotness, parsed.pooling
    return (
        None if ids is None else hotness.parse_hotness(ids, "--hotness"),
        None if pooling is None else hotness.parse_pooling(pooling, "--pooling"),
    )


def open_source(
    path: str, layout: str, parsed: argparse.Namespace, *, flat_days: bool = False
) -> list[DatasetDescription]:
    """Describes all splits of a dataset, or the one split at `path`.

    Args:
        path: a dataset's folder, a split's folder, or a raw file.
        layout: name of a layout, or "auto".
        parsed: the command line, with the flags of `add_source_arguments`.
        flat_days: treat a folder of TorchRec's days as a dataset whose test split comes from the
            last day, instead of as one split.

    Returns:
        One or two descriptions, train first.

    Raises:
        DatasetError: see `dataset.opening.open_split`.
    """
    sizes = None
    if parsed.vocab_sizes is not None:
        sizes = vocabularies.parse_sizes(parsed.vocab_sizes, "--vocab_sizes")
    declared = Declared(
        parsed.label_type, parsed.dense_type, parsed.dense_transform, parsed.applied_transform,
        *parse_bags(parsed),
    )  # fmt: skip
    folder = os.path.normpath(path)
    if files.is_folder(folder) and (is_dataset(folder) or (flat_days and has_days(folder))):
        return list(open_dataset(folder, layout, sizes, declared=declared))
    return [open_split(folder, layout, sizes, declared=declared)]
