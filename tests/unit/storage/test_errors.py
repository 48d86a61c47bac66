"""ReportedError: its fields survive pickling, copies and translation into another error."""

import copy
import pathlib
import pickle

import pytest

from dataset.errors import DatasetError
from storage.errors import ReportedError
from storage.structured import StructureError

FIELDS = {
    "flag": "lr", "path": "a/b", "field": "columns[0]", "line": 7, "table": 3, "sample": 0,
    "expected": [1, 2], "found": "x", "bound": 1000,
}  # fmt: skip


def test_reported_error_has_its_message_and_none_for_fields_not_given():
    error = ReportedError("a: too small", path=pathlib.Path("a"), table=0)
    assert str(error) == "a: too small"
    assert (error.path, error.table) == ("a", 0)
    assert error.fields == {"path": "a", "table": 0}
    assert error.flag is error.sample is error.expected is error.found is error.bound is None


@pytest.mark.parametrize("restore", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "error",
    [
        DatasetError("wrong", **FIELDS),
        StructureError("a/b", "is missing", "columns[0]", expected=3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_reported_error_survives_pickling(error, restore):
    restored = restore(error)
    assert type(restored) is type(error)
    assert str(restored) == str(error)
    assert restored.fields == error.fields


def test_fields_are_kept_when_an_error_is_translated():
    translated = DatasetError.of(ReportedError("wrong", **FIELDS), "again: ", table=4)
    assert str(translated) == "again: wrong"
    assert translated.fields == {**FIELDS, "table": 4}


def test_errors_of_flags_and_paths_begin_with_them():
    of_flag = ReportedError.of_flag("lr", "x" * 500, "expected a number", bound=3)
    assert str(of_flag) == f"--lr={'x' * 400}: expected a number"
    assert of_flag.fields == {"flag": "lr", "found": "x" * 500, "bound": 3}
    of_path = ReportedError.of_path(pathlib.Path("a/b"), "expected a folder", found="file")
    assert (str(of_path), of_path.path) == ("a/b: expected a folder", "a/b")
    assert of_path.found == "file"


def test_mismatch_shows_what_was_expected_and_found():
    error = ReportedError.mismatch("a/b", "kind", ("x", "y"), "z\n", "; try x", field="kind")
    assert str(error) == r"a/b: kind: expected one of x, y, found 'z\n'; try x"
    expected = {"path": "a/b", "field": "kind", "expected": ("x", "y"), "found": "z\n"}
    assert error.fields == expected
    assert str(ReportedError.mismatch(None, "size", 3, 4)) == "size: expected 3, found 4"
