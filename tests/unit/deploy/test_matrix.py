"""The matrix with commands that build nothing: which cells, which outcome."""

import pathlib

import pytest

from deploy import matrix
from deploy.requirements import supported


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """What is run, and what each command prints and returns: [(word in it, text, status)]."""
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


def test_the_ends_are_of_the_table():
    cells = matrix.ends()
    assert len(set(cells)) == 4
    assert all(python in supported()[tensorflow] for tensorflow, python in cells)


def test_the_tiers_are_tests_of_this_tree():
    paths = [word for tests in matrix.TIERS.values() for word in tests if word.startswith("tests")]
    assert len(paths) == 12 and all((matrix.ROOT / path).exists() for path in paths)


def test_a_cell_builds_then_tests(commands, tmp_path, capsys):
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


def test_a_failure_is_the_exit_code_and_keeps_the_environment(commands, tmp_path, capsys):
    _, answers = commands
    answers += [("tests/unit", "1 failed, 9 passed in 3.21s\n", 1)]
    (tmp_path / "tf2.15.1-py3.10").mkdir()
    assert matrix.main(["2.15.1:3.10", "2.12.1:3.9"]) == 1
    assert "**failed**: unit: 1 failed, 9 passed; ranks:" in capsys.readouterr().out
    assert (tmp_path / "tf2.15.1-py3.10").exists()


def test_what_is_not_built_is_not_tested(commands, capsys):
    ran, answers = commands
    answers += [("make", "error\n", 2)]
    assert matrix.main(["2.15.1:3.10"]) == 1
    assert len(ran) == 1 and "| 2.15.1 | 3.10 | not built: " in capsys.readouterr().out


def test_a_python_that_is_not_there_is_an_outcome(commands, monkeypatch, capsys):
    monkeypatch.setattr(matrix, "find_python", lambda version: None)
    assert matrix.main(["2.15.1:3.10"]) == 1
    assert "not run: there is no python3.10 here" in capsys.readouterr().out
    assert not commands[0]


@pytest.mark.parametrize("cell", ["2.15.1", "2.15.1:3.12", "2.11.0:3.9", ":"])
def test_a_cell_outside_the_table_is_refused(cell, capsys):
    with pytest.raises(SystemExit):
        matrix.main([cell])
    assert "expected TENSORFLOW:PYTHON of locks/matrix.txt" in capsys.readouterr().err


def test_pythons_are_found_on_the_path_and_with_pyenv(monkeypatch, tmp_path):
    for folder, status in (("bin", 1), ("versions/3.9.7/bin", 0)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "python3.9").write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / folder / "python3.9").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert matrix.find_python("3.9") == str(tmp_path / "versions/3.9.7/bin/python3.9")
    assert matrix.find_python("3.10") is None
