"""Memory available to this process: the machine's, or less under the limit of a container."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import psutil

# {controller ("" for cgroup version 2): (mount point, limit, usage, prefix in memory.stat)}.
# https://docs.kernel.org/admin-guide/cgroup-v2.html, cgroup-v1/memory.html
_GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", ""),
    "memory": (
        "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_",
    ),
}  # fmt: skip


def available(root: str | os.PathLike = "/") -> int:
    """Returns the bytes that can be allocated without swapping or an out-of-memory kill.

    This is the minimum of the machine's available memory and the remainders of all control groups
    (of a container, of Slurm) that contain this process. The page cache counts as available.

    Args:
        root: the folder that contains proc/ and sys/.
    """
    return min([psutil.virtual_memory().available, *_left_by_groups(pathlib.Path(root))])


def _left_by_groups(root: pathlib.Path) -> Iterator[int]:
    """Yields the bytes that each control group with a limit has left."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller not in _GROUPS:
                continue
            mount, *names = _GROUPS[controller]
            top = root / mount
            # A container may see the host's path, but only its own group as a folder.
            group = top / path.strip("/")
            for folder in (group, *group.parents):
                if folder == top or top in folder.parents:
                    yield from _left_by(folder, *names)


def _left_by(folder: pathlib.Path, limit: str, usage: str, prefix: str) -> Iterator[int]:
    try:
        most = int((folder / limit).read_text())
        taken = int((folder / usage).read_text())
        counters = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        # The group does not exist here or has no limit ("max").
        return
    files = sum(int(counters.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    yield max(0, most - max(0, taken - files))
