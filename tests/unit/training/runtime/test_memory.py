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


# The groups of this process (version 1 has one per controller), their folder, the files with limit
# and usage, and the limit of a group without one.
VERSION_2 = ("0::{}", "sys/fs/cgroup", "memory.max", "memory.current", "max")
VERSION_1 = (
    "12:cpu,cpuacct:/else\n7:name=systemd:/\n4:memory:{}\n0::/", "sys/fs/cgroup/memory",
    "memory.limit_in_bytes", "memory.usage_in_bytes", 2**63 - 4096,
)  # fmt: skip
STATISTICS = {
    VERSION_2: "anon 5\ninactive_file {}\nactive_file {}\nshmem 7\n",
    VERSION_1: "cache 1\ntotal_inactive_file {}\ntotal_active_file {}\ninactive_file 9\n",
}


@pytest.mark.parametrize("version", [VERSION_2, VERSION_1])
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
def test_available_is_the_minimum_over_machine_and_groups(
    tmp_path, version, path, groups, expected
):
    """`groups` is {path: (limit, used, page cache)}."""
    own, top, limit_file, usage_file, unlimited = version
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(own.format(path) + "\n")
    for name, (limit, used, cached) in groups.items():
        folder = tmp_path / top / name.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit_file).write_text(f"{unlimited if limit == 'max' else limit}\n")
        (folder / usage_file).write_text(f"{used}\n")
        statistics = STATISTICS[version].format(cached // 3, cached - cached // 3)
        (folder / "memory.stat").write_text(statistics)
    assert memory.available(tmp_path) == expected


def test_available_without_control_groups(tmp_path):
    assert memory.available(tmp_path) == 50 * GIB


def test_available_on_this_machine():
    assert 0 < memory.available() <= 50 * GIB
