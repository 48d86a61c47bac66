"""Applies the patches of this folder to Horovod's source: apply_patches.py SOURCE.

The source is pinned by its hash, so a patch fits exactly or is wrong: nothing is searched for and
no line may differ. That is what `patch` and the packages that replace it do not promise, and it
leaves a bare host nothing to install.
"""

from __future__ import annotations

import pathlib
import re
import sys

PATCHES = pathlib.Path(__file__).resolve().parent / "patches"
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


def apply(patch: pathlib.Path, source: pathlib.Path) -> list[str]:
    """Applies one unified diff.

    Args:
        patch: the diff; paths begin with a/ and b/, text before the first file is its head.
        source: folder that the paths are relative to.

    Returns:
        The paths changed.

    Raises:
        ValueError: a line differs from what the patch expects; nothing has been written.
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
                    raise ValueError(f"{patch.name}: {path} ends within the hunk of line {first}")
                mark, text = lines[at][:1], lines[at][1:]
                at += 1
                if mark in " -":
                    old.append(text)
                if mark in " +":
                    new.append(text)
            start = first - 1 + shift
            for offset, expected in enumerate(old):
                found = target[start + offset] if start + offset < len(target) else "the file's end"
                if found != expected:
                    raise ValueError(
                        f"{patch.name}: {path}:{start + offset + 1}: expected {expected!r}, "
                        f"found {found!r}"
                    )
            target[start : start + len(old)] = new
            shift += len(new) - len(old)
    if not changed:
        raise ValueError(f"{patch.name} changes nothing")
    for path, content in changed.items():
        (source / path).write_text("".join(content))
    return list(changed)


def apply_all(source: pathlib.Path) -> None:
    """Applies every patch to the unpacked source, in the order of their names."""
    for patch in sorted(PATCHES.glob("*.patch")):
        print(f"{patch.name}: {', '.join(apply(patch, source))}")


if __name__ == "__main__":
    apply_all(pathlib.Path(sys.argv[1]))
