"""The version matrix: finding interpreters."""

from deploy import matrix


def test_python_is_found_on_path_and_in_pyenv(monkeypatch, tmp_path):
    # pyenv's shim on PATH fails if its version is not selected.
    for folder, status in (("bin", 1), ("versions/3.9.7/bin", 0)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "python3.9").write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / folder / "python3.9").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert matrix.find_python("3.9") == str(tmp_path / "versions/3.9.7/bin/python3.9")
    assert matrix.find_python("3.10") is None
