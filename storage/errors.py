"""The base class of every error that a program reports to its user in one line."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_FIELDS = (
    "flag", "path", "field", "line", "table", "sample", "expected", "found", "bound",
)  # fmt: skip


class ReportedError(Exception):
    """An error that the user can fix: a one-line message, and its facts as fields.

    The message says what failed, what was expected and what was found. Programs and tests read the
    fields, so that the wording can change. Fields that do not apply are None.

    Attributes:
        flag: name of the flag, as in `--help`, without dashes.
        path: the file or folder.
        field: the field of a JSON or YAML file, such as "columns[0].width", or the environment
            variable.
        line: line number in a text file, from 1.
        table: index of the embedding table.
        sample: index of the sample in its split.
        expected: the valid value or values.
        found: the invalid value.
        bound: the limit that `found` exceeds.
    """

    def __init__(
        self,
        message: str,
        *,
        flag: str | None = None,
        path: str | os.PathLike[str] | None = None,
        field: str | None = None,
        line: int | None = None,
        table: int | None = None,
        sample: int | None = None,
        expected: Any = None,
        found: Any = None,
        bound: Any = None,
    ) -> None:
        super().__init__(message)
        self.flag, self.field, self.line = flag, field, line
        self.path = None if path is None else os.fspath(path)
        self.table, self.sample = table, sample
        self.expected, self.found, self.bound = expected, found, bound

    @classmethod
    def of_flag(cls, flag: str, found: Any, problem: str, **fields: Any) -> Self:
        """Returns the error "--flag=found: problem", with at most 400 characters of `found`."""
        return cls(f"--{flag}={found!s:.400}: {problem}", flag=flag, found=found, **fields)

    @classmethod
    def of_path(cls, path: str | os.PathLike[str], problem: str, **fields: Any) -> Self:
        """Returns the error "path: problem"."""
        return cls(f"{os.fspath(path)}: {problem}", path=path, **fields)

    @classmethod
    def of_os(cls, error: OSError, default: str = "") -> Self:
        """Returns the error "path: reason"; `default` is the path of an error without a name."""
        return cls.of_path(error.filename or default, error.strerror or str(error))

    @classmethod
    def mismatch(
        cls,
        path: str | os.PathLike[str] | None,
        what: str,
        expected: Any,
        found: Any,
        advice: str = "",
        **fields: Any,
    ) -> Self:
        """Returns the error "path: what: expected ..., found ..." and the advice.

        A tuple of expected values is listed.
        """
        shown = str(found)
        if isinstance(found, str) and not (found and found.isprintable()):
            shown = repr(found)
        values = f"one of {', '.join(expected)}" if isinstance(expected, tuple) else expected
        text = f"{what}: expected {values}, found {shown:.300}{advice}"
        text = text if path is None else f"{os.fspath(path)}: {text}"
        return cls(text, path=path, expected=expected, found=found, **fields)

    @classmethod
    def of(cls, error: ReportedError, prefix: str = "", **fields: Any) -> Self:
        """Returns another error as one of this class: its text after a prefix, its fields."""
        return cls(f"{prefix}{error}", **{**error.fields, **fields})

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that are not None, as keyword arguments of the constructor."""
        return {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}

    def __reduce__(self) -> Any:
        # Bypasses the constructor: those of subclasses take other arguments.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[ReportedError], arguments: tuple, state: dict[str, Any]) -> ReportedError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error
