"""JSON and YAML that is too large, too deep, of the wrong type or no text at all."""

import random
import time
from typing import Annotated, Any, Literal, Optional, TypedDict

import msgspec
import pytest
import yaml

from storage import structured
from storage.structured import StructureError, parse_json, read_json, read_yaml

# Each line holds the one before nine times: 9^20 values in 20 lines.
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
    ("text", "field", "problem"),
    [
        ('{"columns": [], "rate": 1}', None, None),
        ('{"columns": [{"kind": "label", "width": 3}], "rate": null, "more": [1]}', None, None),
        ("[1]", None, "expected object, found a list of 1"),
        ('{"columns": []}', "rate", "is missing"),
        ('{"columns": {}, "rate": 1}', "columns", "expected list, found an object of 0 fields"),
        ('{"columns": [{"kind": "label"}], "rate": 1}', "columns[0].width", "is missing"),
        ('{"columns": [{"kind": "label", "width": 0}], "rate": 1}', "columns[0].width",
         "expected int >= 1, found 0"),
        ('{"columns": [{"kind": "label", "width": true}], "rate": 1}', "columns[0].width",
         "expected int, found true"),
        ('{"columns": [{"kind": "label", "width": 2.0}], "rate": 1}', "columns[0].width",
         "expected int, found 2.0"),
        ('{"columns": [{"kind": "dens", "width": 2}], "rate": 1}', "columns[0].kind",
         "expected one of label, dense, found 'dens'"),
        ('{"columns": [], "rate": "x"}', "rate", "expected float | null, found 'x'"),
        ('{"columns": [], "rate": NaN}', None, "is not JSON: NaN is no JSON number"),
        ('{"columns": [], "rate": 1e999}', None, "is not JSON: the number 1e999 is too large"),
        ('{"columns": [], "columns": []}', None, "is not JSON: the field 'columns' occurs twice"),
        ('{"columns": [], "rate": 1, "x": "\\ud800"}', None, "is not Unicode"),
        ('{"columns": [', None, "is not JSON: Expecting value"),
        ("", None, "is not JSON: Expecting value"),
    ],
)  # fmt: skip
def test_parse_json_names_the_field(text, field, problem):
    if problem is None:
        assert parse_json(text, "FILE", Shape)["columns"] is not None
        return
    with pytest.raises(StructureError) as caught:
        parse_json(text, "FILE", Shape)
    assert (caught.value.path, caught.value.field) == ("FILE", field)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_fields_are_kept(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('\ufeff{"columns": [], "rate": 0.5, "new": {"x": [1]}}')
    assert read_json(path, Shape) == {"columns": [], "rate": 0.5, "new": {"x": [1]}}


@pytest.mark.parametrize("read", [read_json, read_yaml])
@pytest.mark.parametrize("depth", [33, 1000, 100_000])
def test_deep_nesting_is_refused(tmp_path, read, depth):
    path = tmp_path / "deep"
    path.write_text("[" * depth + "]" * depth)
    began = time.monotonic()
    with pytest.raises(StructureError, match="is nested too deep: expected at most 32 levels"):
        read(path, Any)
    assert time.monotonic() - began < 20
    path.write_text("[" * 32 + "]" * 32)
    read(path, Any)


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_large_files_texts_and_numbers_are_refused(tmp_path, read):
    path = tmp_path / "large"
    path.write_text('"' + "x" * 70_000 + '"')
    with pytest.raises(StructureError, match="expected texts of at most 65536 characters"):
        read(path, Any)
    path.write_text("9" * 100_000)
    with pytest.raises(StructureError, match="a number of 100000 digits"):
        read(path, Any)
    path.write_text('"' + "x" * (17 << 20) + '"')
    with pytest.raises(StructureError, match=r"expected at most \d+ bytes, found 17825794"):
        read(path, Any)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a: \xff", "is not text in UTF-8: byte 3 is 0xff"),
        (b"a: [1", "is not YAML: line 1, column 6"),
        (b"a: 1\na: 2", "is not YAML: line 2: the key 'a' occurs twice"),
        (b"a: &x [*x]", "is nested too deep"),
        (LAUGHS, "expected at most 1048576 values, found more"),
        (b"a: *x", "is not YAML: line 1, column 4: found undefined alias 'x'"),
        (b"a: !!timestamp 2001-02-30", "is not YAML: day is out of range for month"),
        (b"a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        (b"a: .nan", "expected a finite number, found .nan"),
        (b"1: 2", "is not YAML: line 1: expected a text as key, found 1"),
        (b"? [1]\n: 2", "is not YAML: line 1: expected a text as key, found [1]"),
        (b"a: 1\n---\nb: 2", "is not YAML"),
    ],
)  # fmt: skip
def test_read_yaml_refuses(tmp_path, text, problem):
    path = tmp_path / "file.yaml"
    path.write_bytes(text)
    with pytest.raises(StructureError) as caught:
        read_yaml(path, Any)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_read_yaml_reads_aliases(tmp_path):
    # What yaml.dump writes of a list that is used twice, as in DeepLearningExamples.
    path = tmp_path / "file.yaml"
    names = ["num_0", "num_1"]
    path.write_text(yaml.dump({"channel": names, "chunk": {"features": names}}))
    assert "*" in path.read_text()
    found = read_yaml(path, dict[str, Any])
    assert found == {"channel": names, "chunk": {"features": names}}


def test_dates_in_yaml_stay_text(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("day: 2001-02-30\nother: 2001-02-03\n")
    assert read_yaml(path, Any) == {"day": "2001-02-30", "other": "2001-02-03"}


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_end_in_a_value_or_a_structure_error(tmp_path, seed):
    print("seed", seed)
    rng = random.Random(seed)
    text = b'{"columns": [{"kind": "label", "width": 3}], "rate": 1e-3, "t": "\\u00e9\\n"}'
    for _ in range(200):
        data = bytearray(text)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "file").write_bytes(data)
        for read in (read_json, read_yaml):
            try:
                read(tmp_path / "file", Shape)
            except StructureError as error:
                assert "\n" not in str(error), error


def test_a_growing_file_is_read_up_to_the_bound(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    path.write_text("[" + "1," * 100 + "1]")
    with pytest.raises(StructureError, match="expected at most 50 bytes, found 203"):
        read_json(path, Any, max_bytes=50)
    assert structured.read_json(path, list[int], max_bytes=203) == [1] * 101
