"""How every command-line tool of the data path ends: its exit status, and one line if it failed."""

import argparse
import os
import select
import sys

from dataset.errors import DatasetError
from dataset.preprocessing.errors import PreprocessError
from storage.paths import NotLocalError, check_local

#: Something the user can put right, as in `training.errors`; argparse exits with it as well.
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
#: What a shell reports of a program whose reader went away, as in `validate DIR | head -1`.
EXIT_BROKEN_PIPE = 141


def at_least_one(text):
    """Returns a flag's text as a whole number of at least 1: a type for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


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

    An unexpected error is left to Python: a traceback and status 1.

    Args:
        name: the tool's, put before messages.
        job: the tool; returns its own exit status.
        interrupted: what is said when the user stops it.

    Returns:
        What the job returned, or 2, 130 or 141 with at most one line on standard error.
    """
    try:
        status = job()
        # Here, where a reader that went away is still an error that can be caught.
        sys.stdout.flush()
    except (DatasetError, PreprocessError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except OSError as error:  # A full disk, a folder that may not be written, a closed pipe.
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return EXIT_BROKEN_PIPE
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


def _reader_is_gone():
    """Returns whether standard output's reader is gone; if so, what is left for it is dropped."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # Not a file at all.
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # Python flushes once more when it exits: let that go nowhere.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
    return True
