"""Describes a setting: one field of a configuration dataclass with its help text and bounds.

Name, type and default come from the field, everything else from its metadata. `training.cli` turns
each setting into a flag.
"""

import dataclasses
import typing
from typing import Any, Optional

#: Values of `Setting.path`: always a path, or either a path or a keyword.
PATH, PATH_OR_WORD = "path", "path or word"
_KINDS = (bool, int, float, str)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: name of the field and of the flag.
        section: name of the group's field in `training.config.Config`, such as "data".
        kind: bool, int, float or str. If `default` is None, the value may also be None.
        default: the value if the user sets none.
        help: text for --help.
        minimum: smallest allowed value, or None.
        maximum: largest allowed value, or None.
        choices: allowed values; empty: any.
        unit: unit of a number, such as "steps", or "".
        path: `PATH`, `PATH_OR_WORD`, or "" if the setting is not a path.
        alias: an older name of the flag, or "".
    """

    name: str
    section: str
    kind: type
    default: Any
    help: str
    minimum: Optional[float]
    maximum: Optional[float]
    choices: tuple[str, ...]
    unit: str
    path: str
    alias: str


def setting(
    default: Any,
    help: str,
    *,
    minimum: Optional[float] = None,
    maximum: Optional[float] = None,
    choices: tuple[str, ...] = (),
    unit: str = "",
    path: str = "",
    alias: str = "",
) -> Any:
    """Returns a dataclass field that is a setting; see `Setting` for the arguments."""
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "minimum": minimum,
            "maximum": maximum,
            "choices": tuple(choices),
            "unit": unit,
            "path": path,
            "alias": alias,
        },
    )


def settings_of(group: type[Any], section: str) -> list[Setting]:
    """Returns the settings of a configuration dataclass in the order of its fields.

    Args:
        group: the dataclass.
        section: see `Setting`.

    Raises:
        TypeError: the type of a field is not a `Setting.kind`.
    """
    found = []
    for field in dataclasses.fields(group):
        kinds = [k for k in typing.get_args(field.type) if k is not type(None)] or [field.type]
        if len(kinds) != 1 or kinds[0] not in _KINDS:
            raise TypeError(
                f"{group.__name__}.{field.name}: expected bool, int, float or str, or Optional of "
                f"one of them, found {field.type}"
            )
        found.append(
            Setting(field.name, section, kinds[0], default=field.default, **field.metadata)
        )
    return found
