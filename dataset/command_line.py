"""How every command-line tool of the data path ends: its exit status, and one line if it failed."""

import argparse
import sys

from dataset.errors import DatasetError
from dataset.preprocessing.errors import PreprocessError
from storage.arguments import whole_number
from storage.paths import NotLocalError, check_local

#: The exit code of errors that the user can correct; argparse exits with it as well.
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
#: Types for argparse: a number of things, such as samples (more than any disk holds), and of
#: threads (more than any machine has cores cost memory and gain nothing).
at_least_one = whole_number(1, 10**15)
threads = whole_number(1, 1024)


def path(text):
    """Returns a flag's text, which is a path on this machine: a type for argparse."""
    if not text:
        # What an unset variable of the shell becomes: the current folder is not meant.
        raise argparse.ArgumentTypeError("expected a path, found nothing")
    try:
        check_local(text)
    except NotLocalError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def run(name, job, interrupted="interrupted"):
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
