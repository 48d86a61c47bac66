"""Recognizes reports: a new report replaces no other file."""

from __future__ import annotations

import os

from storage.claim import check_replaceable
from storage.regular import open_regular

#: The generator of a page and the Software of a picture.
PROGRAM = "DLRM training report"
_PAGE = f'<meta name="generator" content="{PROGRAM}">'.encode()
# Of pages that name no generator yet.
_TITLE = b"<title>DLRM training: "
_PICTURE = b"\x89PNG\r\n"
_HEAD_BYTES = 4096


def check(path: str | os.PathLike) -> None:
    """Checks that a page or picture can be written: that nothing is there, or an earlier one.

    Raises:
        OSError: something else is there; `filename` and `strerror` describe it.
    """
    check_replaceable(path, lambda: _is_report(path))


def _is_report(path: str | os.PathLike) -> bool:
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_PICTURE):
        return PROGRAM.encode() in head
    return _PAGE in head or _TITLE in head
