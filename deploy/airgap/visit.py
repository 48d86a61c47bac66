"""Arranges the files of a visit to a GPU host into uploads of limited size, one per call.

`deploy.airgap.prepare` builds the files, `visit.sh` makes the calls on the host (docs/airgap.md).
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from deploy.airgap import BundleError
from deploy.airgap.parts import MIB

#: The last call before which all parts of the bundle must be on the host.
UNPACKING_CALL = 5
#: Bytes of an upload that are not planned: the tree may grow, and transports add to a file's size.
MARGIN_BYTES = 4 * MIB
_TAR_BLOCK = 512
# Longer paths take two more blocks in a tar file.
_TAR_NAME = 100


class Call(NamedTuple):
    """A call of `visit.sh`.

    Attributes:
        number: from 1.
        seconds: time limit.
        proves: what its results show.
    """

    number: int
    seconds: int
    proves: str


class File(NamedTuple):
    """A file to upload.

    Attributes:
        path: where it is on this machine.
        size: in bytes.
    """

    path: pathlib.Path
    size: int

    @classmethod
    def of(cls, path: pathlib.Path) -> File:
        """Returns an existing file with its size."""
        return cls(path, path.stat().st_size)


def read_calls(listing: str) -> list[Call]:
    """Parses what `visit.sh --list` prints: lines `number|seconds|proves`.

    Raises:
        BundleError: a line has another form.
    """
    calls = []
    for line in listing.splitlines():
        words = line.split("|")
        if len(words) != 3 or not (words[0] + words[1]).isdecimal():
            raise BundleError(f"visit.sh --list: expected number|seconds|proves, found {line!r}")
        calls.append(Call(int(words[0]), int(words[1]), words[2]))
    return calls


def tar_bytes(sizes: Mapping[str, int]) -> int:
    """Returns the size of an uncompressed tar file of {path: bytes}."""
    blocks = 2
    for name, size in sizes.items():
        blocks += 1 + -(-size // _TAR_BLOCK) + 2 * (len(name) > _TAR_NAME)
    return blocks * _TAR_BLOCK


def distribute(
    calls: Sequence[Call], every: Sequence[File], before_unpacking: Sequence[File], capacity: int
) -> dict[int, list[File]]:
    """Assigns files to calls.

    Args:
        calls: the calls, in order.
        every: files for every call: a host that is lost between two calls comes back empty.
        before_unpacking: files for any one call up to `UNPACKING_CALL`, such as the bundle's parts.
        capacity: bytes per call.

    Returns:
        {number of a call: its files}.

    Raises:
        BundleError: a file, or all together, do not fit; the message has the sizes.
    """
    early = [call.number for call in calls if call.number <= UNPACKING_CALL]
    files = {call.number: list(every) for call in calls}
    free = {number: capacity - sum(file.size for file in every) for number in early}
    for file in sorted(before_unpacking, key=lambda file: -file.size):
        # The fullest call with enough space, so that large files find an empty one.
        fitting = [number for number in early if free[number] >= file.size]
        if not fitting:
            total = sum(other.size for other in before_unpacking)
            raise BundleError(
                f"{file.path.name} fits into no call: expected at most {max(free.values()):,} "
                f"bytes, found {file.size:,}; {len(before_unpacking)} files of {total:,} bytes "
                f"must fit into {len(early)} calls of {capacity:,} bytes; try another --part_mib",
                path=file.path, bound=max(free.values()), found=file.size,
            )  # fmt: skip
        number = min(fitting, key=lambda number: free[number])
        files[number].append(file)
        free[number] -= file.size
    return files


def check_sizes(folders: Mapping[int, Iterable[File]], tree: int, limit: int) -> dict[int, int]:
    """Checks the uploads as they are on disk; returns {call: bytes with the tree}.

    Args:
        folders: {call: the files in its folder}.
        tree: bytes of the source tree's tar file, which every call uploads too.
        limit: largest upload in bytes.

    Raises:
        BundleError: an upload is too large.
    """
    sizes = {}
    for number, files in folders.items():
        sizes[number] = tree + tar_bytes({file.path.name: file.size for file in files})
        if sizes[number] > limit:
            raise BundleError(
                f"call {number}: expected at most {limit:,} bytes, found {sizes[number]:,}, of "
                f"which {tree:,} are the source tree",
                bound=limit, found=sizes[number],
            )  # fmt: skip
    return sizes


def command(number: int, folder: str, default: str) -> str:
    """Returns the command of a call, whose files are in `folder` of the source tree."""
    return f"deploy/airgap/visit.sh {number}" + (f" {folder}" if folder != default else "")


def plan(
    calls: Sequence[Call],
    folders: Mapping[int, tuple[str, Sequence[File]]],
    commands: Mapping[int, str],
    sizes: Mapping[int, int],
    tree: int,
    limit: int,
) -> str:
    """Returns the text of PLAN.

    Args:
        calls: the calls, in order.
        folders: {call: (folder in the source tree, its files)}.
        commands: {call: its command}.
        sizes: {call: bytes with the tree}.
        tree: bytes of the source tree's tar file.
        limit: largest upload in bytes.
    """
    total = sum(call.seconds for call in calls)
    lines = [
        "Before each call, copy the source tree to the GPU host, with the files of the call's",
        "folder at the same place in it. Then run the command in the root of the tree. Make the",
        "calls in order, on one host: it keeps what earlier calls brought. Results are in $OUT",
        "(default: build/airgap/results).",
        "",
        f"source tree: {tree:,} bytes; largest upload: {limit:,} bytes; {len(calls)} calls of at "
        f"most {total} s in total",
    ]
    for call in calls:
        folder, files = folders[call.number]
        lines += [
            "",
            f"call {call.number}: {sizes[call.number]:,} bytes with the tree, at most "
            f"{call.seconds} s",
            f"  shows: {call.proves}",
            f"  command: {commands[call.number]}",
            f"  files: {folder}",
            *(f"    {file.size:>12,}  {file.path.name}" for file in files),
        ]
    return "\n".join(lines) + "\n"
