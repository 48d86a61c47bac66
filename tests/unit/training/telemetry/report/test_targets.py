"""A report replaces earlier reports and no other file."""

import pytest

from tests.support.training.telemetry.report.journals import END, make_events, write_run
from training.telemetry.report.__main__ import main


@pytest.fixture
def run(tmp_path, rng):
    """The folder of a run with a breakdown, the only plot of its report."""
    return write_run(tmp_path / "run", make_events(rng)[:2], END)


def report(run, *flags):
    return main([str(run), *map(str, flags)])


def test_earlier_page_and_pictures_are_replaced(tmp_path, run):
    page, pictures = tmp_path / "page.html", tmp_path / "png"
    flags = ["--output", page, "--png", pictures]
    assert report(run, *flags) == 0
    before = {path: path.read_bytes() for path in [page, *pictures.iterdir()]}
    assert len(before) == 3
    assert report(run, *flags) == 0
    assert {path: path.read_bytes() for path in [page, *pictures.iterdir()]} == before


def test_page_of_earlier_version_is_replaced(tmp_path, run):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><head>\n<title>DLRM training: run</title>")
    assert report(run, "--output", page) == 0
    assert 'name="generator"' in page.read_text()


@pytest.mark.parametrize("name", ["journal.jsonl", "result.json"])
def test_files_of_run_are_kept(run, capsys, name):
    before = (run / name).read_bytes()
    assert report(run, "--output", run / name) == 2
    assert capsys.readouterr().err.startswith(f"report: {run / name}: ")
    assert (run / name).read_bytes() == before
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["breakdown.png", "overview.png"])
@pytest.mark.parametrize("content", [b"", b"notes", b"\x89PNG\r\n\x1a\nSoftware Matplotlib"])
def test_foreign_pictures_are_kept_and_nothing_is_written(tmp_path, run, capsys, name, content):
    (tmp_path / name).write_bytes(content)
    assert report(run, "--output", tmp_path / "page.html", "--png", tmp_path) == 2
    assert f"{tmp_path / name}: " in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "run"])
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("make", ["link", "folder"])
def test_only_regular_files_are_replaced(tmp_path, run, capsys, make):
    page = tmp_path / "page.html"
    if make == "link":
        page.symlink_to(tmp_path / "elsewhere")
    else:
        page.mkdir()
    assert report(run, "--output", page) == 2
    assert f"{page}: " in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
