"""Replaces each --flagfile=FILE by the flags in FILE, one per line.

absl can read such files too, but it would block on a named pipe and never finish with a device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from storage.paths import NotLocalError, check_local
from storage.regular import open_regular
from training.runtime.errors import UserError

_FLAG = re.compile(r"--?flagfile(=(.*))?", re.DOTALL)
_MAX_BYTES = 1 << 20


def expand(arguments: Sequence[str]) -> list[str]:
    """Returns the command line with each --flagfile, also in such a file, replaced by its flags.

    As in absl, empty lines and lines that begin with # or // are skipped, and nothing after the
    argument "--" is a flag.

    Args:
        arguments: like sys.argv.

    Raises:
        UserError: a file cannot be read, is not UTF-8 text, or includes itself.
    """
    expanded, left = [], list(arguments)
    while left:
        argument = left.pop(0)
        match = _FLAG.fullmatch(argument)
        if match is None:
            expanded.append(argument)
            if argument == "--":
                break
            continue
        if match[1] is None and not left:
            raise UserError("--flagfile: expected --flagfile=FILE, found no file", flag="flagfile")
        expanded += _flags_in(match[2] if match[1] is not None else left.pop(0), ())
    return expanded + left


def _flags_in(name, above):
    """Returns the flags in a file; `above` are the files that include it."""
    path = os.path.expanduser(name)
    if path in above:
        problem = f"the file includes itself: {' -> '.join([*above, path])}"
        raise UserError.of_flag("flagfile", name, problem, path=path)
    found = []
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        match = _FLAG.fullmatch(line)
        if match is None:
            found.append(line)
        elif match[1] is None:
            problem = f"line {number}: expected --flagfile=FILE, found {line!r:.60}"
            raise UserError.of_flag("flagfile", path, problem, path=path, line=number)
        else:
            found += _flags_in(match[2], (*above, path))
    return found


def _text_of(path):
    try:
        check_local(path)
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except NotLocalError as error:
        raise UserError.of(error, f"--flagfile={path}: ", flag="flagfile") from error
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        raise UserError.of_flag("flagfile", path, problem, path=path) from error
    if len(data) > _MAX_BYTES:
        problem = f"expected at most {_MAX_BYTES} bytes, found more"
        raise UserError.of_flag("flagfile", path, problem, path=path, bound=_MAX_BYTES)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        problem = f"expected UTF-8 text with one flag per line, found {found}"
        raise UserError.of_flag("flagfile", path, problem, path=path) from error
