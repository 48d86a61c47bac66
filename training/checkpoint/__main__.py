"""Inspects checkpoints: `python3 -m training.checkpoint inspect|verify|export DIR [OUT]`.

Does not import TensorFlow.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dataset import command_line
from storage.atomic import encode_json
from training.checkpoint import array_export, folder, inspection, manifest, restore, verify
from training.checkpoint.errors import DamagedError
from training.runtime.console import warn
from training.runtime.errors import EXIT_OK, EXIT_USER_ERROR, UserError


class _SingleRank:
    """`training.runtime.process_group.SingleProcessGroup` without TensorFlow."""

    rank, size = 0, 1

    def all_reduce_sum(self, values: npt.ArrayLike) -> np.ndarray:
        """Returns the values as an array."""
        return np.asarray(values)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit code: 0, or 2 for damage and wrong arguments."""
    parser = argparse.ArgumentParser(prog="python3 -m training.checkpoint", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("inspect", "print the contents of a checkpoint (of a folder: the newest)"),
        ("verify", "read and verify every byte of a checkpoint (of a folder: of all)"),
        ("export", "write each table and dense variable as one .npy file"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        about = "a checkpoint or a folder of checkpoints"
        command.add_argument("dir", metavar="DIR", type=command_line.path, help=about)
        if name == "inspect":
            command.add_argument("--json", action="store_true", help="print JSON")
        if name == "export":
            about = "the new folder to write"
            command.add_argument("out", metavar="OUT", type=command_line.path, help=about)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "inspect":
            return _inspect(chosen.dir, chosen.json)
        if chosen.command == "verify":
            return _verify(chosen.dir)
        return _export(chosen.dir, chosen.out)
    except (UserError, DamagedError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    return EXIT_USER_ERROR


def _paths(path: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the checkpoints at a path, oldest first.

    Raises:
        UserError: the path is neither a checkpoint nor a folder of checkpoints.
    """
    path = pathlib.Path(path)
    found = [checkpoint for _, checkpoint in folder.checkpoints(path)]
    # A checkpoint without one of these two files is a damaged one.
    if folder.is_checkpoint(path) or (path / manifest.NAME).is_file():
        found = [path]
    if not found:
        raise UserError.of_path(path, "expected a checkpoint or a folder of checkpoints")
    return found


def _inspect(path: str | os.PathLike, as_json: bool) -> int:
    newest = _paths(path)[-1]
    read, _ = manifest.read(newest)
    facts = inspection.describe(newest, read)
    print(encode_json(facts) if as_json else inspection.as_text(facts))
    return EXIT_OK


def _verify(path: str | os.PathLike) -> int:
    code = EXIT_OK
    for checkpoint in _paths(path):
        found = verify.find_problems(checkpoint)
        for line in found:
            print(f"damaged: {line}")
        print(f"{checkpoint}: {f'{len(found)} damaged' if found else 'complete'}")
        code = EXIT_USER_ERROR if found else code
    return code


def _export(path: str | os.PathLike, out: str | os.PathLike) -> int:
    _paths(path)

    reader = restore.latest_complete(path, _SingleRank(), warn)
    if reader is None:
        raise UserError.of_path(path, "has no complete checkpoint")
    size = array_export.export(reader, out)
    print(
        f"{out}: step {reader.manifest['step']} of {reader.folder}, "
        f"{len(reader.manifest['vocab_sizes'])} tables, {size:,} bytes"
    )
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
