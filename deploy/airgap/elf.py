"""What shared libraries need from the machine they are loaded on, as objdump tells it."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Iterable, Mapping

# The C library's own files: always the host's, never carried.
GLIBC = re.compile(
    r"^(libc|libm|libdl|libpthread|librt|libutil|libresolv|libnsl|ld-linux-x86-64|"
    r"ld-linux-aarch64|linux-vdso)\.so"
)
_MAGIC = b"\x7fELF"


def is_elf(path: pathlib.Path) -> bool:
    """Tells whether a file is an executable or a shared library (links are not)."""
    path = pathlib.Path(path)
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(4) == _MAGIC


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the paths of all ELF files in a folder, sorted."""
    found = (pathlib.Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if is_elf(path))


def headers(paths: Iterable[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Returns {path: text}: what `objdump -p` prints of each file.

    Raises:
        RuntimeError: objdump refused a file; the message holds what it said.
    """
    told = {}
    names = [str(path) for path in paths]
    # In portions, so that the command line stays short.
    for begin in range(0, len(names), 200):
        command = ["objdump", "-p", *names[begin : begin + 200]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"objdump -p returned {done.returncode}: {done.stderr.strip()}")
        for piece in re.split(r"\n(?=/[^\n]*:\s+file format )", "\n" + done.stdout)[1:]:
            told[pathlib.Path(piece.partition(":")[0])] = piece
    return told


def needed(header: str) -> list[str]:
    """Returns the names of the libraries that a file asks for, in its order."""
    return re.findall(r"^\s+NEEDED\s+(\S+)", header, re.MULTILINE)


def mappable(header: str) -> bool:
    """Tells whether the loader can map every segment: offset and address agree by its alignment."""
    segments = re.findall(
        r"^\s+LOAD off\s+0x([0-9a-f]+) vaddr 0x([0-9a-f]+) paddr 0x[0-9a-f]+ align 2\*\*(\d+)",
        header, re.MULTILINE,
    )  # fmt: skip
    return all((int(v, 16) - int(o, 16)) % 2 ** int(a) == 0 for o, v, a in segments)


def versions(header: str, symbol: str) -> set[tuple[int, ...]]:
    """Returns the versions of a symbol set that a file requires of others, e.g. of "GLIBC".

    Args:
        header: of the file.
        symbol: "GLIBC", "GLIBCXX" or "CXXABI".

    Returns:
        a set of tuples of numbers: {(2, 17), (2, 34)}.
    """
    _, _, references = header.partition("Version References:")
    found = re.findall(rf"\b{symbol}_(\d+(?:\.\d+)+)", references)
    return {tuple(map(int, version.split("."))) for version in found}


def highest(told: Mapping[pathlib.Path, str], symbol: str) -> tuple[str, pathlib.Path | None]:
    """Returns (version, path): the highest version of a symbol set that any of the files requires.

    Args:
        told: {path: header}.
        symbol: as in `versions`.

    Returns:
        ("2.35", path), or ("0", None) where none requires it.
    """
    best, holder = (0,), None
    for path, header in told.items():
        for version in versions(header, symbol):
            if version > best:
                best, holder = version, path
    return ".".join(map(str, best)), holder


def located(path: pathlib.Path) -> dict[str, str]:
    """Returns {library name: its path on this machine} of all that a file loads (`ldd`)."""
    done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    return dict(re.findall(r"^\s+(\S+) => (/\S+)", done.stdout, re.MULTILINE))
