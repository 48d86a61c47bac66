"""The base of every error that a user sees as one line."""

from __future__ import annotations

import os
from typing import Any


class ReportedError(Exception):
    """Something the user can fix: one line of text, and its facts as fields.

    The text says what failed, what was expected and what was found. The fields are for programs,
    tests among them, so that the wording can change. Fields that do not apply are None.

    Attributes:
        flag: name of the flag, as in `--help`, without dashes.
        path: the file or folder.
        table: index of the embedding table.
        expected: what would have been right.
        found: what was there.
        bound: the limit that `found` crosses.
    """

    def __init__(
        self,
        message: str,
        *,
        flag: str | None = None,
        path: str | os.PathLike[str] | None = None,
        table: int | None = None,
        expected: Any = None,
        found: Any = None,
        bound: Any = None,
    ) -> None:
        super().__init__(message)
        self.flag, self.table = flag, table
        self.path = None if path is None else os.fspath(path)
        self.expected, self.found, self.bound = expected, found, bound

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are not None, as the constructor takes them."""
        names = ("flag", "path", "table", "expected", "found", "bound")
        return {name: value for name in names if (value := getattr(self, name)) is not None}
