"""Recognizes earlier reports, the only files that a new report replaces."""

from __future__ import annotations

import os

from storage.claim import check_replaceable
from storage.regular import open_regular

#: Generator of pages; "Software" of PNG files.
PROGRAM = "DLRM training report"
_PAGE = f'<meta name="generator" content="{PROGRAM}">'.encode()
# Pages of earlier versions name no generator.
_TITLE = b"<title>DLRM training: "
_PICTURE = b"\x89PNG\r\n"
_HEAD_BYTES = 4096


def check(path: str | os.PathLike) -> None:
    """Checks that a path is free or holds an earlier page or picture.

    Raises:
        OSError: the path holds anything else; `filename` and `strerror` describe it.
    """
    check_replaceable(path, lambda: _is_report(path))


def _is_report(path: str | os.PathLike) -> bool:
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_PICTURE):
        return PROGRAM.encode() in head
    return _PAGE in head or _TITLE in head
