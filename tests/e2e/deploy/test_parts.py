"""Packing, joining and checking a bundle."""

import hashlib
import os
import platform
import re
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.airgap import parts

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="bundles are for x86-64")


def contents(tree):
    """Returns {relative path: what is there}: bytes, a link's target or a folder, and the mode."""
    found = {}
    for relative in parts.members(tree):
        path = tree / relative
        if path.is_symlink():
            found[relative] = os.readlink(path)
        else:
            mode = path.stat().st_mode
            found[relative] = (mode, None if path.is_dir() else path.read_bytes())
    return found


def test_unpacks_what_was_packed(bundle, tmp_path):
    made = bundle()
    assert len(made.parts) > 4
    assert all(size <= 7000 for _, size, _ in made.parts)
    target = tmp_path / "new" / "place"
    done = made.unpack(target)
    assert done.returncode == 0, done.stderr
    assert f"all {len(made.parts)} parts are here and whole" in done.stdout
    assert contents(target) == contents(made.tree)
    ran = subprocess.run([target / "project" / "run"], capture_output=True, text=True, check=True)
    assert ran.stdout == "it ran\n"


def test_packs_alike_twice(bundle, tmp_path):
    made = bundle()
    again = tmp_path / "again"
    again.mkdir()
    listing = parts.pack(
        made.tree, again, first=lambda path: path.parts[0] == "python", facts={},
        part_bytes=7000, level=1, threads=1,
    )  # fmt: skip
    assert listing == made.parts


def test_names_every_missing_and_damaged_part(bundle, tmp_path):
    made = bundle()
    made.part(0).unlink()
    data = bytearray(made.part(1).read_bytes())
    place = int(np.random.default_rng().integers(len(data)))
    data[place] ^= 1
    made.part(1).write_bytes(data)
    made.part(2).write_bytes(made.part(2).read_bytes()[:-1])
    target = tmp_path / "place"
    done = made.unpack(target)
    assert done.returncode == 1
    sizes = {name: size for name, size, _ in made.parts}
    digests = {name: digest for name, _, digest in made.parts}
    assert done.stderr.splitlines() == [
        f"unpack: bundle.000 is missing ({sizes['bundle.000']} bytes expected)",
        f"unpack: bundle.001 is damaged: expected SHA-256 {digests['bundle.001']}, found "
        f"{hashlib.sha256(data).hexdigest()}",
        f"unpack: bundle.002 is damaged: expected {sizes['bundle.002']} bytes, found "
        f"{sizes['bundle.002'] - 1}",
        f"unpack: 3 of {len(made.parts)} parts are missing or damaged: copy them again",
    ]
    assert list(target.iterdir()) == []


def test_check_alone_unpacks_nothing(bundle):
    made = bundle()
    before = sorted(made.folder.iterdir())
    done = made.unpack("--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(made.folder.iterdir()) == before
    (made.folder / "start.tar.gz").unlink()
    done = made.unpack("--check")
    assert done.returncode == 1
    assert "start.tar.gz is missing" in done.stderr


def test_parts_in_another_order_are_refused(bundle, tmp_path):
    made = bundle()
    manifest = made.folder / "MANIFEST"
    lines = manifest.read_text().splitlines(keepends=True)
    first, second = (next(i for i, x in enumerate(lines) if f"bundle.00{n}" in x) for n in (0, 1))
    lines[first], lines[second] = lines[second], lines[first]
    manifest.write_text("".join(lines))
    done = made.unpack(tmp_path / "place")
    assert done.returncode == 1
    assert re.search(r"not of one bundle: expected SHA-256 \w{64} .*, found \w{64}", done.stderr)


@pytest.mark.parametrize("lines", [0, 1, 5, -1])
def test_a_manifest_that_is_cut_off_is_refused(bundle, tmp_path, lines):
    made = bundle()
    manifest = made.folder / "MANIFEST"
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[:lines]))
    done = made.unpack(tmp_path / "place")
    assert done.returncode == 1
    assert "MANIFEST is cut off or damaged" in done.stderr
    manifest.unlink()
    assert "MANIFEST is missing" in made.unpack(tmp_path / "place").stderr


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"glibc": "99.1"}, r"this host has glibc 2\.\d+; 99\.1 or later is needed"),
        ({"machine": "s390x"}, "this host is x86_64; the bundle is for s390x"),
        ({"cpu_flags": "sse2,frob"}, "processor has no frob instructions"),
        ({"glibcxx": "9.9.9"}, r"no libstdc\+\+\.so\.6 with GLIBCXX_9\.9\.9 was found"),
    ],
)
def test_a_host_that_lacks_something_is_told(bundle, tmp_path, facts, message):
    done = bundle(**facts).unpack(tmp_path / "place")
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr
    assert not (tmp_path / "place").exists()


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue", "550.54.15"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Rel", "570.86.10"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release", None),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  1000.1  Tue", None),
    ],
)  # fmt: skip
def test_an_old_driver_is_warned_about(bundle, tmp_path, told, version):
    made = bundle(driver="580.65.06")
    script = made.folder / "unpack.sh"
    (tmp_path / "version").write_text(f"{told}\nGCC version:  gcc version 12.3.0 (Ubuntu)\n")
    asked = script.read_text()
    assert "/proc/driver/nvidia/version" in asked
    script.write_text(asked.replace("/proc/driver/nvidia/version", str(tmp_path / "version")))
    done = made.unpack(tmp_path / "place")
    assert done.returncode == 0, done.stderr
    warning = f"NVIDIA driver is {version}; the op library's CUDA kernels need 580.65.06 or later"
    assert (warning in done.stderr) if version else (done.stderr == "")


def test_versions_are_compared_as_numbers(bundle, tmp_path):
    """2.9 is older than any host's glibc, though "9" sorts after "3"."""
    assert bundle(glibc="2.9").unpack(tmp_path / "place").returncode == 0


def test_free_space_is_checked_before_anything_is_written(bundle, tmp_path):
    made = bundle()
    manifest = made.folder / "MANIFEST"
    text = re.sub("^unpacked_bytes .*", f"unpacked_bytes {2**55}", manifest.read_text(), flags=re.M)
    manifest.write_text(text)
    done = made.unpack(tmp_path / "place")
    needed = 2**55 * 21 // 20 // 2**20
    assert done.returncode == 1
    assert re.search(rf"\d+ MiB are free where .* is; {needed} MiB are needed", done.stderr)
    assert list((tmp_path / "place").iterdir()) == []


def test_a_name_with_white_space_is_refused(bundle, tmp_path):
    done = bundle().unpack(tmp_path / "a place")
    assert done.returncode == 1
    assert "white space" in done.stderr
    assert not (tmp_path / "a place").exists()


def test_a_folder_that_holds_something_is_left_alone(bundle, tmp_path):
    target = tmp_path / "place"
    target.mkdir()
    (target / "mine").write_text("mine")
    done = bundle().unpack(target)
    assert done.returncode == 1
    assert "place is not empty" in done.stderr
    assert [path.name for path in target.iterdir()] == ["mine"]


@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(1, 40))
def test_splitter_cuts_where_it_should(tmp_path_factory, pieces, part_bytes):
    folder = tmp_path_factory.mktemp("parts")
    splitter = parts.Splitter(folder, "x", part_bytes)
    for piece in pieces:
        assert splitter.write(piece) == len(piece)
    splitter.close()
    whole = b"".join(pieces)
    written = [(folder / name).read_bytes() for name, _, _ in splitter.parts]
    assert b"".join(written) == whole
    assert [len(data) for data in written[:-1]] == [part_bytes] * (len(written) - 1)
    assert all(written), "an empty part"
    for (_, size, digest), data in zip(splitter.parts, written):
        assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
    assert splitter.sha256() == hashlib.sha256(whole).hexdigest()


def test_a_start_that_is_too_large_is_refused(bundle, tmp_path):
    made = bundle()
    with pytest.raises(ValueError, match=r"start\.tar\.gz has \d+ bytes; a part has at most 100"):
        parts.pack(made.tree, tmp_path, lambda path: True, {}, part_bytes=100)


def test_a_fact_of_two_words_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the fact driver must be one word, found '580 or later'"):
        parts.write_manifest(tmp_path, {"driver": "580 or later"}, [])
