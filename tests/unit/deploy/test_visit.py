"""Arranging a visit's files into uploads: sizes, limits, PLAN, and when the bundle is rebuilt."""

import argparse
import collections
import gzip
import io
import json
import tarfile

import pytest

from deploy.airgap import BundleError, build, demo_losses, prepare, visit
from deploy.airgap.parts import MIB

CALLS = [visit.Call(number, 10 * number, f"proof {number}") for number in range(1, 7)]


def test_tar_bytes_equals_the_size_of_a_tar_file(rng):
    sizes = {f"folder/{'x' * int(rng.integers(1, 200))}-{index}": int(rng.integers(0, 5000))
             for index in range(40)}  # fmt: skip
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, size in sizes.items():
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
    # tarfile pads the end to whole records.
    records = -(-visit.tar_bytes(sizes) // tarfile.RECORDSIZE)
    assert records * tarfile.RECORDSIZE == len(stream.getvalue())


def test_read_calls_returns_what_was_listed(rng):
    calls = [visit.Call(number, int(rng.integers(1, 999)), f"it works: {number}")
             for number in range(1, 7)]  # fmt: skip
    listing = "".join(f"{call.number}|{call.seconds}|{call.proves}\n" for call in calls)
    assert visit.read_calls(listing) == calls


@pytest.mark.parametrize("line", ["1|x|proof", "1|20", "", "one|20|proof"])
def test_read_calls_rejects_other_lines(line):
    with pytest.raises(BundleError, match=r"visit\.sh --list"):
        visit.read_calls(f"1|20|proof\n{line}\n")


def files(tmp_path, sizes):
    return [visit.File(tmp_path / f"bundle.{index:03d}", int(size))
            for index, size in enumerate(sizes)]  # fmt: skip


def test_distribute_puts_each_file_into_one_early_call(tmp_path, rng):
    capacity = 10_000
    every = files(tmp_path / "every", rng.integers(1, 500, 2))
    # At most two of more than half a call's space, so that they always fit.
    once = files(tmp_path / "once", [*rng.integers(5000, 9000, 2), *rng.integers(1, 2000, 12)])
    found = visit.distribute(CALLS, every, once, capacity)
    assert sorted(found) == [1, 2, 3, 4, 5, 6]
    assert found[6] == every
    counts = collections.Counter(file for assigned in found.values() for file in assigned)
    assert all(counts[file] == 6 for file in every)
    assert all(counts[file] == 1 for file in once)
    assert all(sum(file.size for file in assigned) <= capacity for assigned in found.values())


def test_distribute_names_the_file_that_does_not_fit(tmp_path):
    every, once = files(tmp_path / "every", [100]), files(tmp_path, [901, 20])
    with pytest.raises(BundleError) as raised:
        visit.distribute(CALLS, every, once, 1000)
    assert (raised.value.bound, raised.value.found) == (900, 901)
    assert raised.value.path == str(once[0].path)


def test_distribute_names_the_file_for_which_no_space_is_left(tmp_path):
    once = files(tmp_path, [600] * 6)
    with pytest.raises(BundleError) as raised:
        visit.distribute(CALLS, [], once, 1000)
    assert (raised.value.bound, raised.value.found) == (400, 600)


def test_upload_at_the_limit_is_accepted_and_a_larger_one_is_named(tmp_path, rng):
    tree = int(rng.integers(1000, 9000))
    folders = {1: files(tmp_path, [10]), 2: files(tmp_path, [10, 5000])}
    sizes = visit.check_sizes(folders, tree, 10**9)
    assert sizes[2] == tree + visit.tar_bytes({"a": 10, "b": 5000})
    assert visit.check_sizes(folders, tree, sizes[2]) == sizes
    with pytest.raises(BundleError, match="call 2: ") as raised:
        visit.check_sizes(folders, tree, sizes[2] - 1)
    assert (raised.value.bound, raised.value.found) == (sizes[2] - 1, sizes[2])


class Builds:
    """Replaces the builds of `prepare` by small files; `sizes` are the bundle's."""

    def __init__(self, folder, monkeypatch, rng):
        self.folder, self.sizes, self._rng = folder, [3 * MIB] * 4 + [1000], rng
        self.output = folder / "root" / "build" / "visit"
        monkeypatch.setattr(prepare, "ROOT", folder / "root")
        monkeypatch.setattr(prepare, "tree_bytes", lambda: MIB)
        monkeypatch.setattr(prepare, "listed_calls", lambda: CALLS)
        monkeypatch.setattr(prepare, "build_library", self._library)
        monkeypatch.setattr(prepare, "build_bundle", self._bundle)
        monkeypatch.setattr(demo_losses, "train", lambda device: {"losses": [0.5], "gpu": None})
        monkeypatch.setattr(visit, "MARGIN_BYTES", 1000)

    def _library(self, architecture, folder):
        path = folder / f"libdlrm_cuda_kernels-sm{architecture}.so.gz"
        path.write_bytes(self._rng.bytes(5000))
        return path

    def _bundle(self, options, library):
        assert library.startswith(f"libdlrm_cuda_kernels-sm{options.architecture}")
        folder = self.folder / "bundle"
        folder.mkdir(exist_ok=True)
        paths = [folder / f"bundle.{index:03d}" for index in range(len(self.sizes))]
        for path, size in zip(paths, self.sizes):
            path.write_bytes(self._rng.bytes(size))
        return paths

    def run(self, *arguments):
        return prepare.main(["--output", str(self.output), *map(str, arguments)])

    def uploaded(self, number):
        """Returns {name: bytes} of a call's files."""
        folder = self.output / f"call-{number}"
        return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def builds(tmp_path, monkeypatch, rng):
    return Builds(tmp_path, monkeypatch, rng)


def test_prepare_writes_each_calls_files_and_plan(builds, capsys):
    assert builds.run("--limit_mib", 5) == 0
    carried = {number: builds.uploaded(number) for number in range(1, 7)}
    library = "libdlrm_cuda_kernels-sm90.so.gz"
    for number in range(1, 7):
        assert {library, "demo_losses.json"} <= set(carried[number])
    for index, size in enumerate(builds.sizes):
        name = f"bundle.{index:03d}"
        found = [uploaded[name] for uploaded in carried.values() if name in uploaded]
        assert found == [(builds.folder / "bundle" / name).read_bytes()]
        assert len(found[0]) == size
    text = (builds.output / "PLAN").read_text()
    assert text in capsys.readouterr().out
    parts = text.split("\ncall ")[1:]
    assert len(parts) == 6
    for call, part in zip(CALLS, parts):
        assert part.startswith(f"{call.number}: ")
        assert f"{call.seconds} s" in part and call.proves in part
        assert f"deploy/airgap/visit.sh {call.number} build/visit/call-{call.number}\n" in part
        for name, data in carried[call.number].items():
            assert f"{len(data):,}  {name}" in part
        assert len(visit.command(call.number, "build/visit/call-1", "")) <= 2000


def test_prepare_without_bundle_has_calls_without_tensorflow(builds):
    assert builds.run("--no_bundle", "--architecture", 80) == 0
    assert not (builds.folder / "bundle").exists()
    folders = sorted(path.name for path in builds.output.glob("call-*"))
    assert folders == [f"call-{number}" for number in range(1, 5)]
    assert all(list(builds.uploaded(number)) == ["libdlrm_cuda_kernels-sm80.so.gz"]
               for number in range(1, 5))  # fmt: skip


def test_prepare_replaces_an_earlier_plan(builds):
    assert builds.run("--limit_mib", 5) == 0
    assert builds.run("--limit_mib", 5, "--no_bundle") == 0
    assert not (builds.output / "call-5").exists()
    assert "call 5" not in (builds.output / "PLAN").read_text()


def test_prepare_leaves_the_default_work_folder_to_make_airgap(builds, monkeypatch):
    monkeypatch.setattr(build.Build, "interpreter", lambda self: None)
    builds.output = builds.folder / "root" / "build" / "airgap" / "visit"
    assert builds.run("--no_bundle") == 0
    work = builds.folder / "root" / "build" / "airgap"
    assert build.main(["--work", str(work), "--until", "interpreter"]) == 0


def test_prepare_rejects_a_bundle_that_does_not_fit(builds, capsys):
    builds.sizes[2] = 4 * MIB
    assert builds.run("--limit_mib", 5) == 1
    message = capsys.readouterr().err
    assert "bundle.002" in message and f"{4 * MIB:,}" in message
    assert not (builds.output / "PLAN").exists()


def test_prepare_rejects_a_folder_outside_the_tree_or_with_other_files(builds, capsys):
    outside = builds.folder / "elsewhere"
    assert prepare.main(["--output", str(outside)]) == 1
    assert f"--output={outside}" in capsys.readouterr().err
    assert not outside.exists()
    builds.output.mkdir(parents=True)
    (builds.output / "call-notes").write_text("notes")
    assert builds.run() == 2
    assert str(builds.output) in capsys.readouterr().err
    assert (builds.output / "call-notes").read_text() == "notes"


def cache(tmp_path, rng, name="cuda-cache/a"):
    """Writes a compiler cache in three pieces; returns their paths."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 3000
        archive.addfile(member, io.BytesIO(rng.bytes(3000)))
    data = stream.getvalue()
    paths = [tmp_path / f"cuda-cache.tar.gz.{index:02d}" for index in range(3)]
    for index, path in enumerate(paths):
        path.write_bytes(data[index * 1000 :][: 1000 if index < 2 else None])
    return paths


def test_prepare_uploads_the_joined_compiler_cache_once(builds, tmp_path, rng):
    pieces = cache(tmp_path, rng)
    assert builds.run("--limit_mib", 5, "--cuda_cache", *pieces) == 0
    found = [uploaded["cuda-cache.tar.gz"] for number in range(1, 7)
             if "cuda-cache.tar.gz" in (uploaded := builds.uploaded(number))]  # fmt: skip
    assert found == [b"".join(piece.read_bytes() for piece in pieces)]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(found[0]))) as archive:
        assert archive.getnames() == ["cuda-cache/a"]


def test_prepare_rejects_an_incomplete_or_foreign_compiler_cache(builds, tmp_path, rng, capsys):
    pieces = cache(tmp_path, rng)
    for given in (pieces[1:], pieces[:2], [tmp_path / "missing"]):
        assert builds.run("--no_bundle", "--cuda_cache", *given) == 1
        assert "--cuda_cache=" in capsys.readouterr().err
    assert builds.run("--no_bundle", "--cuda_cache", *cache(tmp_path, rng, "../etc/a")) == 1
    assert "../etc/a" in capsys.readouterr().err


class BundleBuilds:
    """Replaces `deploy.airgap.build.main`; `calls` are its arguments, `codes` its results."""

    def __init__(self, folder, monkeypatch):
        self.calls, self.codes, self.work = [], [], folder / "work"
        self.options = argparse.Namespace(
            work=str(self.work), architecture=90, part_mib=54, level=19
        )
        self.library = "libdlrm_cuda_kernels-sm90-0123.so.gz"
        root = folder / "root"
        (root / "ops").mkdir(parents=True)
        (root / "ops" / "op.cc").write_text("int op;")
        (root / "ops" / "op.py").write_text("op = 1")
        self.root = root
        monkeypatch.setattr(prepare, "ROOT", root)
        monkeypatch.setattr(prepare.project, "files", lambda: ["ops/op.cc", "ops/op.py"])
        monkeypatch.setattr(prepare.packages, "tensorflow_version", lambda: "2.21.0")
        monkeypatch.setattr(build, "main", self._main)

    def _main(self, arguments):
        self.calls.append(arguments)
        (self.work / "bundle").mkdir(parents=True, exist_ok=True)
        (self.work / "bundle" / "MANIFEST").write_text("parts 0\n")
        return self.codes.pop(0) if self.codes else 0

    def run(self):
        """Builds; returns the options that make a build repeat steps."""
        self.calls.clear()
        assert [path.name for path in prepare.build_bundle(self.options, self.library)] == [
            "MANIFEST"
        ]
        for arguments in self.calls:
            assert "--lean" in arguments
            assert arguments[arguments.index("--level") + 1] == str(self.options.level)
        return {word for call in self.calls for word in call if word in ("--fresh", "--redo")}


@pytest.fixture
def bundle_builds(tmp_path, monkeypatch):
    return BundleBuilds(tmp_path, monkeypatch)


def test_bundle_is_reused_until_its_sources_change(bundle_builds):
    made = bundle_builds
    assert made.run() == {"--fresh"}
    assert made.run() == set()
    (made.root / "ops" / "op.py").write_text("op = 2")
    assert made.run() == set()
    (made.root / "ops" / "op.cc").write_text("int other;")
    assert made.run() == {"--fresh"}
    made.library = "libdlrm_cuda_kernels-sm90-4567.so.gz"
    assert made.run() == {"--fresh"}
    made.options.level = 3
    assert made.run() == {"--redo"}
    assert made.run() == set()
    assert json.loads((made.work / "visit.json").read_text())["level"] == 3


def test_interrupted_bundle_build_resumes(bundle_builds):
    made = bundle_builds
    made.codes = [0, 1]  # the first step passes, a later one fails
    with pytest.raises(BundleError):
        made.run()
    assert made.run() == set()


def test_bundle_build_that_failed_at_once_starts_anew(bundle_builds):
    made = bundle_builds
    made.codes = [1]
    with pytest.raises(BundleError):
        made.run()
    assert made.run() == {"--fresh"}
