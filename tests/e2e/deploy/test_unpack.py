"""unpack.sh: checks of the host and of the parts, and unpacking."""

import hashlib
import os
import platform
import re
import subprocess

import pytest

from deploy.airgap import parts

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="bundles are for x86-64")


def contents(tree):
    """Returns {relative path: a link's target, or (mode, bytes or None for a folder)}."""
    found = {}
    for relative in parts.members(tree):
        path = tree / relative
        if path.is_symlink():
            found[relative] = os.readlink(path)
        else:
            mode = path.stat().st_mode
            found[relative] = (mode, None if path.is_dir() else path.read_bytes())
    return found


def test_unpack_restores_packed_tree(bundle, tmp_path):
    made = bundle()
    assert len(made.parts) > 4
    assert all(size <= 7000 for _, size, _ in made.parts)
    target = tmp_path / "new" / "place"
    done = made.unpack(target)
    assert done.returncode == 0, done.stderr
    assert f"all {len(made.parts)} parts" in done.stdout
    assert contents(target) == contents(made.tree)
    ran = subprocess.run([target / "project" / "run"], capture_output=True, text=True, check=True)
    assert ran.stdout == "it ran\n"


def test_every_missing_and_damaged_part_is_named(bundle, tmp_path, rng):
    made = bundle()
    made.part(0).unlink()
    data = bytearray(made.part(1).read_bytes())
    data[int(rng.integers(len(data)))] ^= 1
    made.part(1).write_bytes(data)
    made.part(2).write_bytes(made.part(2).read_bytes()[:-1])
    target = tmp_path / "place"
    done = made.unpack(target)
    assert done.returncode == 1
    sizes = {name: size for name, size, _ in made.parts}
    digests = {name: digest for name, _, digest in made.parts}
    expected = [
        ("bundle.000", sizes["bundle.000"]),
        ("bundle.001", digests["bundle.001"], hashlib.sha256(data).hexdigest()),
        ("bundle.002", sizes["bundle.002"], sizes["bundle.002"] - 1),
        ("3 of", len(made.parts)),
    ]
    lines = done.stderr.splitlines()
    assert len(lines) == len(expected)
    for line, values in zip(lines, expected):
        assert all(str(value) in line for value in values), line
    assert list(target.iterdir()) == []


def test_check_writes_nothing(bundle):
    made = bundle()
    before = sorted(made.folder.iterdir())
    done = made.unpack("--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(made.folder.iterdir()) == before
    (made.folder / "start.tar.gz").unlink()
    done = made.unpack("--check")
    assert done.returncode == 1
    assert "start.tar.gz" in done.stderr


def test_parts_in_wrong_order_are_rejected(bundle, tmp_path):
    made = bundle()
    manifest = made.folder / "MANIFEST"
    lines = manifest.read_text().splitlines(keepends=True)
    first, second = (next(i for i, x in enumerate(lines) if f"bundle.00{n}" in x) for n in (0, 1))
    lines[first], lines[second] = lines[second], lines[first]
    manifest.write_text("".join(lines))
    done = made.unpack(tmp_path / "place")
    assert done.returncode == 1
    assert re.search(r"expected SHA-256 \w{64} .*, found \w{64}", done.stderr)


@pytest.mark.parametrize("lines", [0, 1, 5, -1])
def test_truncated_or_missing_manifest_is_rejected(bundle, tmp_path, lines):
    made = bundle()
    manifest = made.folder / "MANIFEST"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:lines]))
    done = made.unpack(tmp_path / "place")
    assert done.returncode == 1
    assert str(manifest) in done.stderr
    manifest.unlink()
    assert str(manifest) in made.unpack(tmp_path / "place").stderr


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"glibc": "99.1"}, r"glibc: expected 99\.1 .*, found 2\.\d+"),
        ({"machine": "s390x"}, "expected s390x, found x86_64"),
        ({"cpu_flags": "sse2,frob"}, "frob"),
        ({"glibcxx": "9.9.9"}, r"libstdc\+\+\.so\.6: .*GLIBCXX_9\.9\.9"),
    ],
)
def test_unmet_requirement_is_named(bundle, tmp_path, facts, message):
    done = bundle(**facts).unpack(tmp_path / "place")
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "place").exists()


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Rel", "570.86.10"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release", None),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  1000.1  Tue", None),
    ],
)  # fmt: skip
def test_old_driver_is_a_warning(bundle, tmp_path, line, version):
    made = bundle(driver="580.65.06")
    script = made.folder / "unpack.sh"
    (tmp_path / "version").write_text(f"{line}\nGCC version:  gcc version 12.3.0 (Ubuntu)\n")
    text = script.read_text()
    assert "/proc/driver/nvidia/version" in text
    script.write_text(text.replace("/proc/driver/nvidia/version", str(tmp_path / "version")))
    done = made.unpack(tmp_path / "place")
    assert done.returncode == 0, done.stderr
    if version is None:
        assert done.stderr == ""
    else:
        assert "580.65.06" in done.stderr and version in done.stderr


def test_free_space_is_checked_before_unpacking(bundle, tmp_path):
    made = bundle()
    manifest = made.folder / "MANIFEST"
    text = re.sub("^unpacked_bytes .*", f"unpacked_bytes {2**55}", manifest.read_text(), flags=re.M)
    manifest.write_text(text)
    done = made.unpack(tmp_path / "place")
    needed = 2**55 * 21 // 20 // 2**20
    assert done.returncode == 1
    assert re.search(rf"place: expected {needed} MiB, found \d+ MiB", done.stderr)
    assert list((tmp_path / "place").iterdir()) == []


def test_path_with_white_space_is_rejected(bundle, tmp_path):
    done = bundle().unpack(tmp_path / "a place")
    assert done.returncode == 1
    assert str(tmp_path / "a place") in done.stderr
    assert not (tmp_path / "a place").exists()


def test_folder_with_files_is_rejected(bundle, tmp_path):
    target = tmp_path / "place"
    target.mkdir()
    (target / "notes").write_text("notes")
    done = bundle().unpack(target)
    assert done.returncode == 1
    assert str(target) in done.stderr
    assert [path.name for path in target.iterdir()] == ["notes"]
