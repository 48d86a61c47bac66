"""A setting: one field of a configuration dataclass, with what a user must know about it.

The help text, bounds, choices and unit are metadata of the field; name, type and default are the
field's own. `training.cli` makes a flag of each setting.
"""

import dataclasses
import typing
from typing import Any, Optional

#: The setting is the path of a file or folder; or such a path, or a word with a meaning.
PATH, PATH_OR_WORD = "path", "path or word"
_KINDS = (bool, int, float, str)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: of the field, and of the flag.
        section: name of the group's field in the whole configuration, such as "data".
        kind: bool, int, float or str. Where `default` is None the value may be None too.
        default: its value where the user gives none.
        help: what it means, one or more sentences.
        minimum: the least value allowed, or None.
        maximum: the largest value allowed, or None.
        choices: the values allowed; empty: any.
        unit: of a number, such as "steps"; "" where there is none.
        path: `PATH`, `PATH_OR_WORD`, or "" for a setting that is no path.
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


def setting(
    default: Any,
    help: str,
    *,
    minimum: Optional[float] = None,
    maximum: Optional[float] = None,
    choices: tuple[str, ...] = (),
    unit: str = "",
    path: str = "",
) -> Any:
    """Returns a dataclass field that is a setting; for the arguments see `Setting`."""
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "minimum": minimum,
            "maximum": maximum,
            "choices": tuple(choices),
            "unit": unit,
            "path": path,
        },
    )


def settings_of(group: type[Any], section: str) -> list[Setting]:
    """Returns the settings of a configuration dataclass, in the order of its fields.

    Args:
        group: the dataclass.
        section: as for `Setting`.

    Raises:
        TypeError: a field has another type than `Setting.kind` allows.
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
