"""The version matrix with fake commands: cells and outcomes."""

import pathlib

import pytest

from deploy import matrix
from deploy.requirements import supported


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Returns (commands that ran, [(word in a command, its output, its exit code)] to fill)."""
    ran, answers = [], []

    def run(command, log, environment):
        ran.append(" ".join(map(str, command)))
        for word, text, status in answers:
            if word in ran[-1]:
                with open(log, "a") as file:
                    file.write(text)
                return status
        pathlib.Path(log).touch()
        return 0

    monkeypatch.setattr(matrix, "FOLDER", tmp_path)
    monkeypatch.setattr(matrix, "_run", run)
    monkeypatch.setattr(matrix, "find_python", lambda version: f"/somewhere/python{version}")
    return ran, answers


def test_default_cells_are_supported():
    cells = matrix.default_cells()
    assert len(set(cells)) == 4
    assert all(python in supported()[tensorflow] for tensorflow, python in cells)


def test_tiers_name_existing_tests():
    paths = [word for tests in matrix.TIERS.values() for word in tests if word.startswith("tests")]
    assert paths and all((matrix.ROOT / path).exists() for path in paths)


def test_cell_is_built_and_tested(commands, tmp_path, capsys):
    ran, answers = commands
    answers += [("tests/unit", "....\n10 passed, 2 skipped in 3.21s\n", 0)]
    answers += [("pytest", "==== 5 passed in 61.03s (0:01:01) ====\n", 0)]
    (tmp_path / "tf2.15.1-py3.10").mkdir()
    assert matrix.main(["2.15.1:3.10"]) == 0
    assert "make ops TENSORFLOW=2.15.1 PYTHON=/somewhere/python3.10 VENV=" in ran[0]
    assert len(ran) == 3
    row = "| 2.15.1 | 3.10 | passed: unit: 10 passed, 2 skipped; ranks: 5 passed |"
    assert row in capsys.readouterr().out and row in (tmp_path / "table.md").read_text()
    assert not (tmp_path / "tf2.15.1-py3.10").exists()


def test_failed_cell_sets_exit_code_and_keeps_environment(commands, tmp_path, capsys):
    _, answers = commands
    answers += [("tests/unit", "1 failed, 9 passed in 3.21s\n", 1)]
    (tmp_path / "tf2.15.1-py3.10").mkdir()
    assert matrix.main(["2.15.1:3.10", "2.12.1:3.9"]) == 1
    assert "**failed**: unit: 1 failed, 9 passed; ranks:" in capsys.readouterr().out
    assert (tmp_path / "tf2.15.1-py3.10").exists()


def test_cell_that_does_not_build_is_not_tested(commands, capsys):
    ran, answers = commands
    answers += [("make", "error\n", 2)]
    assert matrix.main(["2.15.1:3.10"]) == 1
    assert len(ran) == 1 and "| 2.15.1 | 3.10 | not built: " in capsys.readouterr().out


def test_missing_python_is_reported(commands, monkeypatch, capsys):
    monkeypatch.setattr(matrix, "find_python", lambda version: None)
    assert matrix.main(["2.15.1:3.10"]) == 1
    assert "not run: python3.10" in capsys.readouterr().out
    assert not commands[0]


@pytest.mark.parametrize("cell", ["2.15.1", "2.15.1:3.12", "2.11.0:3.9", ":"])
def test_unsupported_cell_is_rejected(cell, capsys):
    with pytest.raises(SystemExit):
        matrix.main([cell])
    assert f"found {cell}" in capsys.readouterr().err
