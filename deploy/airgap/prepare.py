"""Builds the files of a visit to a GPU host and arranges them into uploads of limited size.

    deploy/airgap/prepare [--architecture 90] [--limit_mib 64] [--no_bundle]

Needs the environment of `make venv` and nvcc, but no GPU. Writes a folder with the files of each
call, call-1 to call-6, and PLAN, which lists sizes and commands (docs/airgap.md).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from typing import Any

from dataset import command_line
from deploy.airgap import BundleError, build, demo_losses, packages, project, visit
from deploy.airgap.parts import MIB
from storage.arguments import first_paragraph, whole_number
from storage.claim import make_owned_folder
from tests.gpu import build as kernels

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = "build/airgap/visit"
#: Marks a folder as this program's, so that it may remove its contents.
MARKER = ".airgap-visit"
LOSSES = "demo_losses.json"
CACHE = "cuda-cache.tar.gz"
# Files of deploy/airgap that are not in a bundle, or that the uploaded tree replaces.
_NOT_BUNDLED = ("visit", "prepare", "demo_losses", "dry_run", "host_cuda")


def _announce(text):
    print(f"prepare: {text}", flush=True)


def build_library(architecture: int, folder: pathlib.Path) -> pathlib.Path:
    """Builds the CUDA kernels for tests.gpu.run; returns the compressed library.

    Raises:
        BundleError: nvcc is missing or failed.
    """
    if kernels.nvcc() is None:
        raise BundleError("nvcc: expected in CUDA_HOME, PATH or /usr/local/cuda/bin, found none")
    try:
        library, _ = kernels.build_for_gpu(str(architecture), os.cpu_count() or 2)
    except kernels.BuildError as error:
        raise BundleError(f"the kernel library: {error}") from error
    target = folder / f"{library.name}.gz"
    target.write_bytes(gzip.compress(library.read_bytes(), mtime=0))
    return target


def bundle_key(options: argparse.Namespace, library: str) -> dict[str, Any]:
    """Returns what the bundle's content depends on, except Python files of the tree.

    `visit.sh` replaces those by the uploaded tree's.

    Args:
        options: the command line.
        library: name of the kernel library, which has a digest of the kernels and of nvcc.
    """
    digest = hashlib.sha256()
    for name in project.files():
        path = pathlib.PurePath(name)
        ops = path.parts[0] == "ops" and path.suffix != ".py"
        builder = path.parts[:2] == ("deploy", "airgap") and not path.name.startswith(_NOT_BUNDLED)
        if ops or builder or name == "pyproject.toml" or path.parts[0] == "locks":
            digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return {
        "architecture": options.architecture, "part_mib": options.part_mib,
        "level": options.level, "tensorflow": packages.tensorflow_version(), "library": library,
        "sources": digest.hexdigest(),
    }  # fmt: skip


def build_bundle(options: argparse.Namespace, library: str) -> list[pathlib.Path]:
    """Builds the lean bundle, or reuses or completes it if it is up to date; returns its files.

    Raises:
        BundleError: the build failed.
    """
    work = pathlib.Path(options.work)
    record, key = work / "visit.json", bundle_key(options, library)
    arguments = ["--lean", "--work", str(work), "--architectures", str(options.architecture),
                 "--part_mib", str(options.part_mib), "--level", str(options.level)]  # fmt: skip
    earlier = json.loads(record.read_text()) if record.exists() else {}
    changed = sorted(name for name in key if earlier.get(name) != key[name])
    if changed and set(changed) <= {"part_mib", "level"}:
        arguments += ["--redo", "pack"]
    elif changed:
        arguments += ["--fresh"]
    if changed:
        make_owned_folder(work, build.MARKER)
        record.unlink(missing_ok=True)
        _announce(f"builds the bundle; changed since the last one: {', '.join(changed)}")
        # Removes the marks of completed steps; from then on an interrupted build can resume.
        if build.main([*arguments, "--until", "interpreter"]) != 0:
            raise BundleError("the bundle did not build; see the messages above")
        record.write_text(json.dumps(key, indent=1) + "\n")
        arguments = [word for word in arguments if word != "--fresh"]
    if build.main(arguments) != 0:
        raise BundleError("the bundle did not build; see the messages above")
    return sorted(path for path in (work / "bundle").iterdir() if path.is_file())


def join_cache(pieces: Sequence[str], folder: pathlib.Path) -> pathlib.Path:
    """Joins the pieces of a compiler cache that a visit brought back; returns the file.

    Raises:
        BundleError: the pieces are no tar file of cuda-cache/.
    """
    target = folder / CACHE
    try:
        with open(target, "wb") as output:
            for piece in pieces:
                with open(piece, "rb") as stream:
                    shutil.copyfileobj(stream, output)
        with tarfile.open(target, "r:gz") as archive:
            names = archive.getnames()
    except (OSError, EOFError, tarfile.TarError) as error:
        problem = f"expected all pieces of {CACHE} in order, found {error}"
        raise BundleError.of_flag("cuda_cache", " ".join(pieces), problem) from error
    outside = [name for name in names if pathlib.PurePath(name).parts[:1] != ("cuda-cache",)]
    if outside or not names:
        found = outside[0] if outside else "nothing"
        raise BundleError.of_flag("cuda_cache", " ".join(pieces),
                                  f"expected files in cuda-cache/, found {found}")  # fmt: skip
    return target


def tree_bytes() -> int:
    """Returns the size of a tar file of the source tree, without what Git ignores."""
    return visit.tar_bytes({name: (ROOT / name).stat().st_size for name in project.files()})


def listed_calls() -> list[visit.Call]:
    """Returns the calls of visit.sh."""
    script = ROOT / "deploy" / "airgap" / "visit.sh"
    done = subprocess.run([str(script), "--list"], capture_output=True, text=True, check=True)
    return visit.read_calls(done.stdout)


def prepare(options: argparse.Namespace) -> str:
    """Builds everything, writes the folders of the calls and PLAN; returns PLAN's text.

    Raises:
        BundleError: a build failed, or the files do not fit.
    """
    output = pathlib.Path(options.output).resolve()
    if ROOT not in output.parents:
        problem = f"expected a folder in {ROOT}: its files have the same place on the host"
        raise BundleError.of_flag("output", options.output, problem)
    limit, tree, calls = options.limit_mib * MIB, tree_bytes(), listed_calls()
    if options.no_bundle:
        calls = [call for call in calls if call.number < visit.UNPACKING_CALL]
    airgap = ROOT / "build" / "airgap"
    if airgap in output.parents:
        # So that `make airgap` accepts its work folder.
        make_owned_folder(airgap, build.MARKER)
    make_owned_folder(output, MARKER)
    for folder in output.glob("call-*"):
        shutil.rmtree(folder)
    (output / "PLAN").unlink(missing_ok=True)
    built = output / "built"
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir()
    _announce("builds the kernel library")
    every = [build_library(options.architecture, built)]
    once = []
    if not options.no_bundle:
        _announce("trains the demo on the CPU, to compare losses")
        (built / LOSSES).write_text(json.dumps(demo_losses.train("cpu"), indent=1) + "\n")
        every.append(built / LOSSES)
        once += build_bundle(options, every[0].name)
    if options.cuda_cache:
        once.append(join_cache(options.cuda_cache, built))
    chosen = visit.distribute(
        calls, list(map(visit.File.of, every)), list(map(visit.File.of, once)),
        limit - tree - visit.MARGIN_BYTES,
    )  # fmt: skip
    folders, names, commands = {}, {}, {}
    for number, files in chosen.items():
        folder = output / f"call-{number}"
        folder.mkdir()
        folders[number] = [visit.File.of(pathlib.Path(shutil.copy2(f.path, folder))) for f in files]
        names[number] = str(folder.relative_to(ROOT))
        commands[number] = visit.command(number, names[number], f"{OUTPUT}/call-{number}")
    shutil.rmtree(built)
    sizes = visit.check_sizes(folders, tree, limit)
    listed = {number: (names[number], folders[number]) for number in folders}
    text = visit.plan(calls, listed, commands, sizes, tree, limit)
    (output / "PLAN").write_text(text)
    return text


def _arguments(arguments):
    parser = argparse.ArgumentParser(
        prog="deploy/airgap/prepare", description=first_paragraph(__doc__)
    )
    add = parser.add_argument
    add("--output", type=command_line.path, default=ROOT / OUTPUT,
        help="folder to write, in the source tree (default: %(default)s)")  # fmt: skip
    add("--work", type=command_line.path, default=ROOT / "build" / "airgap-lean",
        help="work folder of the bundle's build (default: %(default)s)")  # fmt: skip
    add("--architecture", type=whole_number(80, 999), default=90,
        help="the host's GPU generation, such as 90 for sm_90 (default: %(default)s)")  # fmt: skip
    add("--limit_mib", type=whole_number(1, 1 << 20), default=64,
        help="largest upload in MiB, source tree included (default: %(default)s)")  # fmt: skip
    add("--part_mib", type=whole_number(1, 1 << 20), default=53,
        help="largest part of the bundle in MiB (default: %(default)s)")  # fmt: skip
    add("--level", type=whole_number(1, 22), default=19,
        help="Zstandard level of the bundle (default: %(default)s)")  # fmt: skip
    add("--no_bundle", action="store_true", help="only calls 1 to 4, which need no TensorFlow")
    add("--cuda_cache", nargs="+", metavar="FILE",
        help="pieces of cuda-cache.tar.gz from an earlier visit, so that the driver does not "
        "compile again")  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepares a visit and prints PLAN; returns the exit code."""
    options = _arguments(arguments)
    try:
        text = prepare(options)
    except BundleError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"prepare: {BundleError.of_os(error)}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
