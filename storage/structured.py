"""Reads JSON and YAML that users and other programs wrote: of bounded size, of a declared shape.

A shape is a type that msgspec supports (https://jcristharif.com/msgspec/supported-types.html):
`list[int]`, a `TypedDict`, `Annotated[int, msgspec.Meta(ge=1)]`. Types are strict: neither a string
nor a bool passes as an int. Keys that a `TypedDict` does not declare are allowed and kept.
"""

from __future__ import annotations

import json
import math
import os
import re
import typing
from typing import Any

import msgspec
import yaml

from storage.errors import ReportedError
from storage.regular import open_regular

MAX_JSON_BYTES = 16 << 20
# PyYAML reads about 1 MB per second.
MAX_YAML_BYTES = 1 << 20
MAX_DEPTH = 32
_TOO_DEEP = f"is nested too deep: expected at most {MAX_DEPTH} levels of lists and objects"
_MAX_STRING = 1 << 16
# Aliases let a short YAML text expand to a huge value ("billion laughs").
_MAX_YAML_VALUES = 1 << 20
# More than any 64-bit integer or float needs.
_MAX_DIGITS = 400
_AT = re.compile(r" - at `\$(.*)`\Z", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]|(\[\.\.\.\])")


class StructureError(ReportedError, ValueError):
    """A structured text, or one field of it, is invalid.

    Args:
        path: the file, or another name of the text's origin.
        problem: what is wrong.
        field: the field, such as "columns[0].width"; None if the whole text is invalid.
        **fields: more fields of `ReportedError`.
    """

    def __init__(self, path: str, problem: str, field: str | None = None, **fields: Any):
        text = f"{path}: {problem}" if field is None else f"{path}: {field}: {problem}"
        super().__init__(text, path=path, field=field, **fields)


def read_json(path: str | os.PathLike, shape: Any, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Returns the value in a JSON file.

    Args:
        path: a regular file in UTF-8.
        shape: the type that the value must have.
        max_bytes: the largest accepted file size.

    Raises:
        OSError: the file cannot be read; `filename` and `strerror` are set.
        StructureError: the file is too large, not JSON, or of another shape.
    """
    name = os.fspath(path)
    return parse_json(_read(name, max_bytes), name, shape)


def parse_json(data: bytes | str, where: str, shape: Any) -> Any:
    """Returns the value of a JSON text.

    Args:
        data: the text; bytes are UTF-8.
        where: its origin, for errors: a file, a line of a file, a flag.
        shape: the type that the value must have.

    Raises:
        StructureError: the text is not JSON, or of another shape.
    """
    text = _decode(data, where)
    try:
        value = json.loads(
            text,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=_refuse_constant,
            object_pairs_hook=_without_duplicates,
        )
    except RecursionError:
        raise StructureError(where, _TOO_DEEP) from None
    except ValueError as error:
        raise StructureError(where, f"is not JSON: {error}") from None
    check_shape(value, where, shape)
    return value


def read_yaml(path: str | os.PathLike, shape: Any) -> Any:
    """Returns the value in a YAML file. Dates stay text; Python tags are refused.

    Aliases are allowed, because PyYAML writes them where one list occurs twice. The number of
    values that they expand to is bounded.

    Path and shape are as for `read_json`.

    Raises:
        OSError: the file cannot be read; `filename` and `strerror` are set.
        StructureError: the file is too large, not YAML, or of another shape.
    """
    name = os.fspath(path)
    text = _decode(_read(name, MAX_YAML_BYTES), name)
    try:
        loader = _Loader(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise StructureError(name, f"is not YAML: {_one_line(error)}") from None
    except (ValueError, RecursionError) as error:
        raise StructureError(name, f"is not YAML: {str(error).splitlines()[0]}") from None
    _check_bounds(value, name, _MAX_YAML_VALUES)
    check_shape(value, name, shape)
    return value


def check_shape(value: Any, where: str, shape: Any) -> None:
    """Checks a parsed value.

    Args:
        value: lists, dictionaries, strings and numbers.
        where: its origin, for errors.
        shape: the type that the value must have.

    Raises:
        StructureError: the value nests too deep, holds a text that is too long or not Unicode, or
            has another shape.
    """
    _check_bounds(value, where)
    try:
        msgspec.convert(value, shape, strict=True)
    except msgspec.ValidationError as error:
        raise _translated(str(error), value, where, shape) from None


def _read(path: str, max_bytes: int) -> bytes:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise StructureError(
            path, f"expected at most {max_bytes} bytes, found {size}", found=size, bound=max_bytes
        )
    return data


def _decode(data: bytes | str, where: str) -> str:
    if isinstance(data, str):
        return data
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StructureError(
            where, f"is not text in UTF-8: byte {error.start} is 0x{data[error.start]:02x}"
        ) from None


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not a JSON number")


def _without_duplicates(pairs: list) -> dict:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice[:60]!r} occurs twice")
    return value


def _check_bounds(value: Any, where: str, max_values: int | None = None) -> None:
    # An explicit stack: recursion would stop at Python's limit instead of `MAX_DEPTH`.
    stack, found = [(value, 1)], 1
    while stack:
        item, depth = stack.pop()
        if isinstance(item, str):
            _check_text(item, where)
        elif isinstance(item, (dict, list)):
            if depth > MAX_DEPTH:
                raise StructureError(where, _TOO_DEEP)
            found += len(item)
            if max_values is not None and found > max_values:
                problem = (
                    f"expected at most {max_values} values after expanding aliases, found more"
                )
                raise StructureError(where, problem, bound=max_values)
            if isinstance(item, dict):
                stack += ((key, depth) for key in item)
                item = item.values()
            stack += ((part, depth + 1) for part in item)


def _check_text(text: str, where: str) -> None:
    if len(text) > _MAX_STRING:
        problem = (
            f"expected strings of at most {_MAX_STRING} characters, found one with {len(text)}"
        )
        raise StructureError(where, problem, found=len(text), bound=_MAX_STRING)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StructureError(
            where, f"the text {text[:40]!r} is not Unicode: {error.reason}"
        ) from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without the features that make a small file large or slow."""

    # Dates stay text: PyYAML fails on 2001-02-30, and no file of this project has a date.
    yaml_implicit_resolvers: typing.ClassVar = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    _depth = 0

    def compose_node(self, parent, index):
        self._depth += 1
        # One more than `MAX_DEPTH`, which counts containers only: a scalar is a node too.
        if self._depth > MAX_DEPTH + 1:
            raise yaml.YAMLError(_TOO_DEEP)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        pairs = [(self.construct_object(key, deep=True), key) for key, _ in node.value]
        seen = set()
        for name, key in pairs:
            line = f"line {key.start_mark.line + 1}"
            if not isinstance(name, str):
                raise yaml.YAMLError(f"{line}: expected a text as key, found {name!r:.60}")
            if name in seen:
                raise yaml.YAMLError(f"{line}: the key {name[:60]!r} occurs twice")
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_bounded_int(self, node):
        if len(node.value) > _MAX_DIGITS:
            raise ValueError(f"a number of {len(node.value)} digits")
        return self.construct_yaml_int(node)

    def construct_finite_float(self, node):
        value = self.construct_yaml_float(node)
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number, found {node.value[:40]}")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_bounded_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_finite_float)


def _one_line(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def _translated(message: str, value: Any, where: str, shape: Any) -> StructureError:
    """Returns the error for msgspec's message, with the field and the value found in it."""
    at = _AT.search(message)
    problem = message[: at.start()] if at else message
    path = at[1] if at else ""
    missing = re.fullmatch(r"Object missing required field `(.*)`", problem)
    if missing:
        return StructureError(where, "is missing", _field(f"{path}.{missing[1]}"))
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", problem)
    if unknown:
        return StructureError(where, "is unknown", _field(f"{path}.{unknown[1]}"))
    located = _value_at(value, path)
    if problem.startswith("Invalid enum value"):
        values = _literals(shape, path)
        problem = f"expected one of {values}" if values else "has an unknown value"
    else:
        problem = problem.partition(", got ")[0].replace("`", "")
        problem = (problem[0].lower() + problem[1:]).replace("array", "list")
    if located is None:
        return StructureError(where, problem, _field(path) or None)
    (found,) = located
    return StructureError(
        where, f"{problem}, found {_shown(found)}", _field(path) or None, found=found
    )


def _field(path: str) -> str:
    return path[1:] if path.startswith(".") else path


def _value_at(value: Any, path: str) -> tuple[Any] | None:
    """Returns the value at msgspec's path in a tuple; None if the path is ambiguous."""
    for name, index, any_value in _STEP.findall(path):
        try:
            if any_value:
                return None
            value = value[name] if name else value[int(index)]
        except (KeyError, IndexError, TypeError):
            return None
    return (value,)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _literals(shape: Any, path: str) -> str:
    """Returns the values of the Literal at a path of a shape, "" if there is none."""
    for name, *_ in _STEP.findall(path):
        shape = _without_options(shape)
        if name:
            shape = typing.get_type_hints(shape, include_extras=True).get(name)
        else:
            shape = (typing.get_args(shape) or (None,))[-1]
    shape = _without_options(shape)
    if typing.get_origin(shape) is not typing.Literal:
        return ""
    return ", ".join(str(value) for value in typing.get_args(shape))


def _without_options(shape: Any) -> Any:
    """Returns X for Annotated[X, ...] and for Optional[X]."""
    while typing.get_origin(shape) is typing.Annotated or (
        typing.get_origin(shape) is typing.Union and type(None) in typing.get_args(shape)
    ):
        shape = next(a for a in typing.get_args(shape) if a is not type(None))
    return shape
