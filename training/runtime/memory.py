"""Memory available to this process: the machine's, or what its container's limit leaves."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import psutil

# {controller, "" for version 2: (where it is mounted, limit, usage, prefix in memory.stat)}.
# https://docs.kernel.org/admin-guide/cgroup-v2.html, cgroup-v1/memory.html
_GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", ""),
    "memory": (
        "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_",
    ),
}  # fmt: skip


def available(root: str | os.PathLike = "/") -> int:
    """Returns the bytes that can be allocated without swapping or an out-of-memory kill.

    The least of what the machine has available and what each memory limit of a control group above
    this process (a container's, Slurm's) leaves, pages of files not counted as taken.

    Args:
        root: folder that holds proc/ and sys/.
    """
    return min([psutil.virtual_memory().available, *_left_by_groups(pathlib.Path(root))])


def _left_by_groups(root: pathlib.Path) -> Iterator[int]:
    """Yields bytes that each control group with a limit has left."""
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
            # In a container the path may be the host's while only its own group is there.
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
        # No such group here, or one without a limit ("max").
        return
    files = sum(int(counters.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
    yield max(0, most - max(0, taken - files))
