"""The files that a benchmark may write its figures to."""

import argparse
import json
import os

import pytest

from benchmarks import results_file


def test_write_replaces_earlier_figures(tmp_path):
    path = str(tmp_path / "new" / "figures.json")
    for rate in (1.5, 2.5):
        assert results_file.target(path) == path
        results_file.write(path, "ops", {"rate": rate})
    assert json.loads((tmp_path / "new" / "figures.json").read_text()) == {
        "benchmark": "ops", "rate": 2.5,
    }  # fmt: skip


@pytest.mark.parametrize("content", ["", "notes", "[1]", '{"rate": 1}', '{"benchmark": 3}'])
def test_target_refuses_a_file_of_another_program(tmp_path, content):
    (tmp_path / "file").write_text(content)
    with pytest.raises(argparse.ArgumentTypeError, match=str(tmp_path / "file")):
        results_file.target(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == content


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_target_refuses_special_files(tmp_path, make):
    make(tmp_path / "it")
    with pytest.raises(argparse.ArgumentTypeError, match=str(tmp_path / "it")):
        results_file.target(str(tmp_path / "it"))


def test_target_refuses_addresses_and_files_as_folders(tmp_path):
    with pytest.raises(argparse.ArgumentTypeError, match="gs://bucket"):
        results_file.target("gs://bucket/figures.json")
    (tmp_path / "file").touch()
    with pytest.raises(argparse.ArgumentTypeError, match=r"file/figures\.json: .*file$"):
        results_file.target(str(tmp_path / "file" / "figures.json"))
