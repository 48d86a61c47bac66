"""A report replaces an earlier report and nothing else."""

import pytest

from tests.support.training.telemetry.report.journals import END, make_events, write_run
from training.telemetry.report.__main__ import main


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", make_events(), END)


def report(run, *flags):
    return main([str(run), *map(str, flags)])


def test_an_earlier_report_is_replaced(tmp_path, run, capsys):
    page, pictures = tmp_path / "page.html", tmp_path / "png"
    flags = ["--output", page, "--png", pictures]
    assert report(run, *flags) == 0
    before = {path: path.read_bytes() for path in [page, *pictures.iterdir()]}
    assert report(run, *flags) == 0
    assert {path: path.read_bytes() for path in [page, *pictures.iterdir()]} == before


def test_a_page_of_an_earlier_version_is_replaced(tmp_path, run):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><head>\n<title>DLRM training: run</title>")
    assert report(run, "--output", page) == 0
    assert 'name="generator"' in page.read_text()


@pytest.mark.parametrize("name", ["journal.jsonl", "result.json"])
def test_a_runs_own_files_stay(run, capsys, name):
    before = (run / name).read_bytes()
    assert report(run, "--output", run / name) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"report: {run / name}: ")
    assert "this program did not write it: it is not replaced" in message
    assert (run / name).read_bytes() == before
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["auc.png", "overview.png"])
@pytest.mark.parametrize("content", [b"", b"notes", b"\x89PNG\r\n\x1a\nSoftware Matplotlib"])
def test_somebody_elses_pictures_stay(tmp_path, run, capsys, name, content):
    (tmp_path / name).write_bytes(content)
    assert report(run, "--output", tmp_path / "page.html", "--png", tmp_path) == 2
    assert f"{tmp_path / name}: " in capsys.readouterr().err
    # Said before anything is written.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "run"])
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("make", ["link", "folder"])
def test_only_a_regular_file_is_replaced(tmp_path, run, capsys, make):
    page = tmp_path / "page.html"
    if make == "link":
        page.symlink_to(tmp_path / "elsewhere")
    else:
        page.mkdir()
    assert report(run, "--output", page) == 2
    assert f"{page}: " in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
