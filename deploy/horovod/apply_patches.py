"""Applies this folder's patches to Horovod's source: apply_patches.py SOURCE.

The source is pinned by its hash, so every line of a patch must match exactly, without offset or
fuzz. `patch` does not guarantee that, and minimal hosts lack it.
"""

from __future__ import annotations

import pathlib
import re
import sys

PATCHES = pathlib.Path(__file__).resolve().parent / "patches"
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


def apply(patch: pathlib.Path, source: pathlib.Path) -> list[str]:
    """Applies one unified diff to the source folder; returns the changed paths.

    Paths in the diff begin with a/ and b/; text before the first file is ignored.

    Raises:
        ValueError: a line differs from the patch; no file has been changed.
    """
    lines = patch.read_text().splitlines(keepends=True)
    changed: dict[str, list[str]] = {}
    target: list[str] = []
    at, shift = 0, 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("--- a/"):
            path = line[len("--- a/") :].rstrip("\n")
            target = changed[path] = (source / path).read_text().splitlines(keepends=True)
            shift = 0
            if lines[at] != f"+++ b/{path}\n":
                raise ValueError(f"{patch.name}: expected +++ b/{path}, found {lines[at]!r}")
            at += 1
        elif hunk := _HUNK.match(line):
            first, old_length, _, new_length = (int(n or 1) for n in hunk.groups())
            old: list[str] = []
            new: list[str] = []
            while len(old) < old_length or len(new) < new_length:
                if at == len(lines):
                    raise ValueError(f"{patch.name}: truncated in the hunk of {path}:{first}")
                mark, text = lines[at][:1], lines[at][1:]
                at += 1
                if mark in " -":
                    old.append(text)
                if mark in " +":
                    new.append(text)
            start = first - 1 + shift
            for offset, expected in enumerate(old):
                found = target[start + offset] if start + offset < len(target) else "end of file"
                if found != expected:
                    raise ValueError(
                        f"{patch.name}: {path}:{start + offset + 1}: expected {expected!r}, "
                        f"found {found!r}"
                    )
            target[start : start + len(old)] = new
            shift += len(new) - len(old)
    if not changed:
        raise ValueError(f"{patch.name}: expected at least one file, found none")
    for path, content in changed.items():
        (source / path).write_text("".join(content))
    return list(changed)


def apply_all(source: pathlib.Path) -> None:
    """Applies all patches to the unpacked source, ordered by name."""
    for patch in sorted(PATCHES.glob("*.patch")):
        print(f"{patch.name}: {', '.join(apply(patch, source))}")


if __name__ == "__main__":
    apply_all(pathlib.Path(sys.argv[1]))
