"""Reads the dependencies of executables and shared libraries with objdump and ldd."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
from collections.abc import Iterable, Mapping

from deploy.airgap import BundleError

# The C library's files, which a bundle always takes from the host.
GLIBC = re.compile(
    r"^(libc|libm|libdl|libpthread|librt|libutil|libresolv|libnsl|ld-linux-x86-64|"
    r"ld-linux-aarch64|linux-vdso)\.so"
)
_MAGIC = b"\x7fELF"


def is_elf(path: pathlib.Path) -> bool:
    """Returns whether a file is an executable or a shared library; False for links."""
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(4) == _MAGIC


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the sorted paths of all ELF files in a folder."""
    found = (pathlib.Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if is_elf(path))


def headers(paths: Iterable[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Returns {path: output of `objdump -p`}.

    Raises:
        BundleError: objdump failed; the message has its output.
    """
    texts = {}
    names = [str(path) for path in paths]
    # In batches, to limit the length of command lines.
    for begin in range(0, len(names), 200):
        command = ["objdump", "-p", *names[begin : begin + 200]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BundleError(f"objdump -p returned {done.returncode}: {done.stderr.strip()}")
        for piece in re.split(r"\n(?=/[^\n]*:\s+file format )", "\n" + done.stdout)[1:]:
            texts[pathlib.Path(piece.partition(":")[0])] = piece
    return texts


def needed(header: str) -> list[str]:
    """Returns the names of the libraries that a file needs, in its order."""
    return re.findall(r"^\s+NEEDED\s+(\S+)", header, re.MULTILINE)


def mappable(header: str) -> bool:
    """Returns whether the loader can map every segment: offset = address modulo alignment."""
    segments = re.findall(
        r"^\s+LOAD off\s+0x([0-9a-f]+) vaddr 0x([0-9a-f]+) paddr 0x[0-9a-f]+ align 2\*\*(\d+)",
        header, re.MULTILINE,
    )  # fmt: skip
    return all((int(v, 16) - int(o, 16)) % 2 ** int(a) == 0 for o, v, a in segments)


def versions(header: str, symbol: str) -> set[tuple[int, ...]]:
    """Returns the versions of a symbol set, such as "GLIBCXX", that a file requires: {(3, 4)}."""
    _, _, references = header.partition("Version References:")
    found = re.findall(rf"\b{symbol}_(\d+(?:\.\d+)+)", references)
    return {tuple(map(int, version.split("."))) for version in found}


def highest_version(
    headers: Mapping[pathlib.Path, str], symbol: str
) -> tuple[str, pathlib.Path | None]:
    """Returns the highest version of a symbol set that any file requires, and that file.

    For example ("2.35", path); ("0", None) if no file requires the symbol set.
    """
    best, user = (0,), None
    for path, header in headers.items():
        for version in versions(header, symbol):
            if version > best:
                best, user = version, path
    return ".".join(map(str, best)), user


def loaded_libraries(path: pathlib.Path) -> dict[str, str]:
    """Returns {name: path on this machine} of the libraries that a file loads (`ldd`)."""
    done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    return dict(re.findall(r"^\s+(\S+) => (/\S+)", done.stdout, re.MULTILINE))
