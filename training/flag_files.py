"""--flagfile: the flags in a file, one a line, in the place of the flag that names it.

absl reads such files too, whatever they are: a named pipe keeps it waiting, a device never ends.
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
    """Returns the command line with the flags that its --flagfile files hold, theirs included.

    As absl does: empty lines and those that begin with # or // are left out, and what follows the
    argument "--" is no flag.

    Args:
        arguments: like sys.argv.

    Raises:
        UserError: a file cannot be read, is no text, or names itself.
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
            raise UserError("--flagfile names no file")
        expanded += _flags_in(match[2] if match[1] is not None else left.pop(0), ())
    return expanded + left


def _flags_in(name, above):
    """Returns the flags in a file that the files `above` name."""
    path = os.path.expanduser(name)
    if path in above:
        raise UserError(f"--flagfile={name}: names itself: {' -> '.join([*above, path])}")
    found = []
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        match = _FLAG.fullmatch(line)
        if match is None:
            found.append(line)
        elif match[1] is None:
            raise UserError(f"{path}: line {number}: expected --flagfile=FILE, found {line!r:.60}")
        else:
            found += _flags_in(match[2], (*above, path))
    return found


def _text_of(path):
    try:
        check_local(path)
        with open_regular(path) as file:
            data = file.read(_MAX_BYTES + 1)
    except NotLocalError as error:
        raise UserError(f"--flagfile={path}: {error}") from error
    except OSError as error:
        raise UserError(f"--flagfile: cannot be read: {path}: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise UserError(f"--flagfile={path}: expected at most {_MAX_BYTES} bytes, found more")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"--flagfile={path}: is no text in UTF-8: byte {error.start} is "
            f"0x{data[error.start]:02x}: expected a flag in each line"
        ) from error
