"""Which files are reports: they alone are replaced by the next one."""

from storage.claim import check_replaceable
from storage.regular import open_regular

#: What a page's generator and a picture's Software say.
PROGRAM = "DLRM training report"
_PAGE = f'<meta name="generator" content="{PROGRAM}">'.encode()
# Of pages that say no generator yet.
_TITLE = b"<title>DLRM training: "
_PICTURE = b"\x89PNG\r\n"
_HEAD_BYTES = 4096


def check(path):
    """Checks that a page or picture can be written: that nothing is there, or an earlier one.

    Raises:
        OSError: something else is there; `filename` and `strerror` say so.
    """
    check_replaceable(path, lambda: _is_report(path))


def _is_report(path):
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_PICTURE):
        return PROGRAM.encode() in head
    return _PAGE in head or _TITLE in head
