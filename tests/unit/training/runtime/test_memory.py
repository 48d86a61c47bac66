"""Available memory under the limits of control groups."""

import psutil
import pytest

from training.runtime import memory

GIB = 1 << 30


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 50 GiB available."""
    facts = type("Memory", (), {"available": 50 * GIB})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: facts)


def version_2(root, path, groups):
    """Writes groups {path: (limit, used, page cache)} of version 2, and this process's path."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{path}\n")
    for name, (limit, used, files) in groups.items():
        folder = root / "sys/fs/cgroup" / name.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        third = files // 3
        stat = f"anon 5\ninactive_file {third}\nactive_file {files - third}\nshmem 7\n"
        (folder / "memory.stat").write_text(stat)


def version_1(root, path, groups):
    """Writes the same for version 1, where other controllers have other groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(
        f"12:cpu,cpuacct:/else\n7:name=systemd:/\n4:memory:{path}\n0::/\n"
    )
    for name, (limit, used, files) in groups.items():
        folder = root / "sys/fs/cgroup/memory" / name.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        limit = 2**63 - 4096 if limit == "max" else limit
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
        stat = f"cache 1\ntotal_inactive_file {files}\ntotal_active_file 0\ninactive_file 9\n"
        (folder / "memory.stat").write_text(stat)


@pytest.mark.parametrize("write", [version_2, version_1])
@pytest.mark.parametrize(
    ("path", "groups", "expected"),
    [
        ("/", {}, 50 * GIB),
        ("/", {"/": ("max", 3 * GIB, GIB)}, 50 * GIB),
        # A container that sees its own group as the root.
        ("/", {"/": (8 * GIB, 3 * GIB, GIB)}, 6 * GIB),
        # A container that sees the host's path but only its own group.
        ("/docker/0123", {"/": (8 * GIB, 3 * GIB, GIB)}, 6 * GIB),
        # The job's group has a limit, the step's group has none.
        ("/slurm/job/step", {"/slurm/job": (16 * GIB, GIB, 0), "/slurm/job/step": ("max", 5, 0)},
         15 * GIB),
        ("/a/b", {"/a": (9 * GIB, GIB, 0), "/a/b": (4 * GIB, GIB, GIB)}, 4 * GIB),
        # A limit above the machine's memory; more memory used than allowed.
        ("/a", {"/a": (90 * GIB, GIB, 0)}, 50 * GIB),
        ("/a", {"/a": (2 * GIB, 3 * GIB, 0)}, 0),
        # A group that does not contain this process.
        ("/a", {"/b": (GIB, 0, 0)}, 50 * GIB),
    ],
)  # fmt: skip
def test_available_is_the_minimum_over_machine_and_groups(tmp_path, write, path, groups, expected):
    write(tmp_path, path, groups)
    assert memory.available(tmp_path) == expected


def test_available_without_control_groups(tmp_path):
    assert memory.available(tmp_path) == 50 * GIB


def test_available_on_this_machine():
    assert 0 < memory.available() <= 50 * GIB
