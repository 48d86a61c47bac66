"""Where a benchmark's figures may go: said before anything is measured."""

import argparse
import json
import os

import pytest

from benchmarks import results_file


def test_figures_replace_earlier_ones(tmp_path):
    path = str(tmp_path / "new" / "figures.json")
    for rate in (1.5, 2.5):
        assert results_file.target(path) == path
        results_file.write(path, "ops", {"rate": rate})
    assert json.loads((tmp_path / "new" / "figures.json").read_text()) == {
        "benchmark": "ops", "rate": 2.5,
    }  # fmt: skip


@pytest.mark.parametrize("content", ["", "notes", "[1]", '{"rate": 1}', '{"benchmark": 3}'])
def test_somebody_elses_file_stays(tmp_path, content):
    (tmp_path / "file").write_text(content)
    with pytest.raises(argparse.ArgumentTypeError, match="this program did not write it"):
        results_file.target(str(tmp_path / "file"))


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_stays(tmp_path, make):
    make(tmp_path / "it")
    with pytest.raises(argparse.ArgumentTypeError, match="it: is a"):
        results_file.target(str(tmp_path / "it"))


def test_addresses_and_files_as_folders_are_refused(tmp_path):
    with pytest.raises(argparse.ArgumentTypeError, match="only local paths"):
        results_file.target("gs://bucket/figures.json")
    (tmp_path / "file").touch()
    with pytest.raises(argparse.ArgumentTypeError, match="no file can be written there"):
        results_file.target(str(tmp_path / "file" / "figures.json"))
