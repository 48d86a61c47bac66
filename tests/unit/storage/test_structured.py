"""JSON and YAML that is too large, too deep, of the wrong type or not text at all."""

import os
import time
from typing import Annotated, Any, Literal, Optional, TypedDict

import msgspec
import numpy as np
import pytest

from storage import structured
from storage.structured import StructureError, parse_json, read_json, read_yaml

# Each line repeats the previous one nine times: 9^20 values in 20 lines.
LAUGHS = b"\n".join(
    b"l%d: &l%d [%s]" % (n, n, b"1" if n == 0 else b", ".join([b"*l%d" % (n - 1)] * 9))
    for n in range(20)
)


class Column(TypedDict):
    kind: Literal["label", "dense"]
    width: Annotated[int, msgspec.Meta(ge=1)]


class Shape(TypedDict):
    columns: list[Column]
    rate: Optional[float]


@pytest.mark.parametrize(
    ("text", "field", "found"),
    [
        ("[1]", None, [1]),
        ('{"columns": []}', "rate", None),
        ('{"columns": {}, "rate": 1}', "columns", {}),
        ('{"columns": [{"kind": "label"}], "rate": 1}', "columns[0].width", None),
        ('{"columns": [{"kind": "label", "width": 0}], "rate": 1}', "columns[0].width", 0),
        ('{"columns": [{"kind": "label", "width": true}], "rate": 1}', "columns[0].width", True),
        ('{"columns": [{"kind": "label", "width": 2.5}], "rate": 1}', "columns[0].width", 2.5),
        ('{"columns": [{"kind": "dens", "width": 2}], "rate": 1}', "columns[0].kind", "dens"),
        ('{"columns": [], "rate": "x"}', "rate", "x"),
        ('{"columns": [], "rate": NaN}', None, None),
        ('{"columns": [], "rate": 1e999}', None, None),
        ('{"columns": [], "columns": []}', None, None),
        ('{"columns": [], "rate": 1, "x": "\\ud800"}', None, None),
        ('{"columns": [', None, None),
        ("", None, None),
    ],
)  # fmt: skip
def test_parse_json_error_has_field_and_value(text, field, found):
    with pytest.raises(StructureError) as caught:
        parse_json(text, "FILE", Shape)
    assert (caught.value.path, caught.value.field, caught.value.found) == ("FILE", field, found)
    assert type(caught.value.found) is type(found)
    assert str(caught.value).startswith(f"FILE: {field}: " if field else "FILE: ")
    assert "\n" not in str(caught.value)
    assert ("label, dense" in str(caught.value)) == (found == "dens")


def test_read_json_keeps_unknown_fields(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('\ufeff{"columns": [], "rate": 0.5, "new": {"x": [1]}}')
    assert read_json(path, Shape) == {"columns": [], "rate": 0.5, "new": {"x": [1]}}
    text = '{"columns": [{"kind": "label", "width": 3}], "rate": null, "more": [1]}'
    assert parse_json(text, "FILE", Shape)["more"] == [1]


@pytest.mark.parametrize("read", [read_json, read_yaml])
@pytest.mark.parametrize("depth", [33, 1000, 100_000])
def test_read_refuses_deep_nesting(tmp_path, read, depth):
    path = tmp_path / "deep"
    path.write_text("[" * depth + "]" * depth)
    began = time.monotonic()
    with pytest.raises(StructureError, match="nested"):
        read(path, Any)
    assert time.monotonic() - began < 20
    path.write_text("[" * 32 + "]" * 32)
    read(path, Any)


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_read_refuses_large_files_texts_and_numbers(tmp_path, read):
    path = tmp_path / "large"
    path.write_text('"' + "x" * 70_000 + '"')
    with pytest.raises(StructureError) as caught:
        read(path, Any)
    assert (caught.value.found, caught.value.bound) == (70_000, 65_536)
    path.write_text("9" * 100_000)
    with pytest.raises(StructureError, match="100000"):
        read(path, Any)
    path.touch()
    os.truncate(path, 17 << 20)
    with pytest.raises(StructureError) as caught:
        read(path, Any)
    assert caught.value.found == 17 << 20
    assert caught.value.bound in (structured.MAX_JSON_BYTES, structured.MAX_YAML_BYTES)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"a: \xff", "byte 3 is 0xff"),
        (b"a: [1", "line 1, column 6"),
        (b"a: 1\na: 2", "line 2: the key 'a'"),
        (b"a: &x [*x]", "nested"),
        (LAUGHS, "1048576"),
        (b"a: *x", "line 1, column 4"),
        (b"a: !!timestamp 2001-02-30", "day is out of range"),
        (b"a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        (b"a: .nan", "found .nan"),
        (b"1: 2", "line 1: expected a text as key, found 1"),
        (b"? [1]\n: 2", "line 1: expected a text as key, found [1]"),
        (b"a: 1\n---\nb: 2", "not YAML"),
    ],
)  # fmt: skip
def test_read_yaml_refuses(tmp_path, text, shown):
    path = tmp_path / "file.yaml"
    path.write_bytes(text)
    with pytest.raises(StructureError) as caught:
        read_yaml(path, Any)
    assert caught.value.path == str(path)
    assert shown in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_yaml_reads_aliases_and_keeps_dates_as_text(tmp_path):
    # yaml.dump writes an alias for a list that occurs twice, as in DeepLearningExamples.
    path = tmp_path / "file.yaml"
    path.write_text("day: 2001-02-30\nchannel: &id1 [num_0, num_1]\nchunk: {features: *id1}\n")
    names = ["num_0", "num_1"]
    expected = {"day": "2001-02-30", "channel": names, "chunk": {"features": names}}
    assert read_yaml(path, dict[str, Any]) == expected


def test_damaged_bytes_give_a_value_or_a_structure_error(tmp_path, rng):
    text = b'{"columns": [{"kind": "label", "width": 3}], "rate": 1e-3, "t": "\\u00e9\\n"}'
    for _ in range(400):
        data = np.frombuffer(text, np.uint8).copy()
        count = rng.integers(1, 5)
        data[rng.integers(0, len(data), count)] = rng.integers(0, 256, count)
        (tmp_path / "file").write_bytes(data.tobytes())
        for read in (read_json, read_yaml):
            try:
                read(tmp_path / "file", Shape)
            except StructureError as error:
                assert "\n" not in str(error), error
