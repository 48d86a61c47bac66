"""What the command lines of the data path share: exit status, types, the flags of a source."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from dataset import files, vocabularies
from dataset.columns import TRANSFORMS, DatasetDescription
from dataset.errors import DatasetError
from dataset.layouts import has_days
from dataset.opening import is_dataset, open_dataset, open_split
from dataset.preprocessing.errors import PreprocessError
from dataset.stored_types import Declared
from dataset.transforms import APPLIED_HELP
from storage.arguments import whole_number
from storage.paths import NotLocalError, check_local

#: The exit code of errors that the user can correct; argparse exits with it as well.
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
#: Types for argparse: a number of things, such as samples (more than any disk holds), and of
#: threads (more than any machine has cores cost memory and gain nothing).
at_least_one = whole_number(1, 10**15)
threads = whole_number(1, 1024)
#: What label and dense values are stored as, in 4 bytes.
_WORD_TYPES = ("int32", "float32")


def path(text: str) -> str:
    """Returns a flag's text, which is a path on this machine: a type for argparse."""
    if not text:
        # What an unset variable of the shell becomes: the current folder is not meant.
        raise argparse.ArgumentTypeError("expected a path, found nothing")
    try:
        check_local(text)
    except NotLocalError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def run(name: str, job: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Runs a tool and returns its exit status.

    An unexpected error is left to Python: a traceback and status 1. Standard output that takes no
    more ends the program too, as `storage.program_start` says.

    Args:
        name: the tool's, put before messages.
        job: the tool; returns its own exit status.
        interrupted: what is said when the user stops it.

    Returns:
        What the job returned, or 2 or 130 with at most one line on standard error.
    """
    try:
        status = job()
    except (DatasetError, PreprocessError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:  # A full disk, a folder that may not be written.
        where = "" if error.filename is None else f"{error.filename}: "
        # Tools only make folders, which may be there already.
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
    return status


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
        sizes = vocabularies.parse_sizes(parsed.vocab_sizes, "--vocab_sizes")
    declared = Declared(
        parsed.label_type, parsed.dense_type, parsed.dense_transform, parsed.applied_transform
    )
    folder = os.path.normpath(path)
    if files.is_folder(folder) and (is_dataset(folder) or (flat_days and has_days(folder))):
        return list(open_dataset(folder, layout, sizes, declared=declared))
    return [open_split(folder, layout, sizes, declared=declared)]
