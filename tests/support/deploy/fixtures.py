"""A small bundle, packed from random files."""

import subprocess
import sys

import pytest

from deploy.airgap import parts
from tests.support.paths import ROOT

UNPACK = ROOT / "deploy" / "airgap" / "unpack.sh"
# Requirements that any host meets: glibc 2.9 is old, though "9" sorts after "3".
FACTS = {"machine": "x86_64", "glibc": "2.9", "glibcxx": "3.4.19", "driver": "none"}


class Bundle:
    """A small bundle and the tree that it was packed from."""

    def __init__(self, folder, rng, facts):
        self.tree, self.folder = folder / "tree", folder / "a bundle"
        self.folder.mkdir(parents=True)
        expand = self.tree / "python" / "expand.py"
        expand.parent.mkdir(parents=True)
        expand.write_bytes((UNPACK.parent / "expand.py").read_bytes())
        python = self.tree / "python" / "bin" / "python3"
        python.parent.mkdir()
        # In place of the bundle's interpreter.
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        data = self.tree / "project" / "deep" / "folder"
        data.mkdir(parents=True)
        for index in range(5):
            (data / f"file {index}").write_bytes(rng.bytes(int(rng.integers(7_000, 20_000))))
        (data / "empty").touch()
        (self.tree / "project" / "an empty folder").mkdir()
        (self.tree / "project" / "link").symlink_to("deep/folder")
        (self.tree / "project" / "run").write_text("#!/bin/sh\necho it ran\n")
        (self.tree / "project" / "run").chmod(0o755)
        self.parts = parts.pack(
            self.tree, self.folder, in_start=lambda path: path.parts[0] == "python",
            facts={**FACTS, "cpu_flags": "sse2", **facts}, part_bytes=7000, level=1, threads=1,
        )  # fmt: skip
        (self.folder / "unpack.sh").write_bytes(UNPACK.read_bytes())

    def unpack(self, target):
        """Runs unpack.sh with a minimal environment; returns the CompletedProcess."""
        return subprocess.run(
            ["sh", str(self.folder / "unpack.sh"), str(target)], env={"PATH": "/usr/bin:/bin"},
            cwd="/", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def part(self, number):
        """Returns the path of a part of the second archive."""
        return self.folder / f"bundle.{number:03d}"


@pytest.fixture
def bundle(tmp_path, rng):
    """Returns a function (**facts) that packs a small bundle."""
    return lambda **facts: Bundle(tmp_path, rng, facts)
