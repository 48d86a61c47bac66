"""Prints warnings, and the error that ends a job, on standard error."""

import sys
import time


def warn(text: str) -> None:
    """Prints a warning."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def print_error(rank: int, message: str) -> None:
    """Prints the error that ends this rank.

    Most errors occur on all ranks: the others wait, so that rank 0 prints first and ends the job.
    """
    if rank != 0:
        time.sleep(2)
        message = f"rank {rank}: {message}"
    print(f"error: {message}", file=sys.stderr, flush=True)
