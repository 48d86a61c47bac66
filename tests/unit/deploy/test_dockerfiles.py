"""The Dockerfiles, without building them: files, stages, groups, locks and arguments exist."""

import re

import pytest

from deploy import requirements
from tests.support.deploy.dockerfiles import FILES, arguments, instructions
from tests.support.paths import ROOT

# The default Python of each base image.
PYTHONS = {"Dockerfile": "3.12", "Dockerfile.merlin": "3.10"}


def stages(path):
    """Returns the names of the stages."""
    return {words.split(" AS ")[1] for words in arguments(path, "FROM") if " AS " in words}


def ignored():
    """Returns the patterns of .dockerignore."""
    return (ROOT / ".dockerignore").read_text().split()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_copied_files_exist(path):
    copies = arguments(path, "COPY")
    assert "COPY . ." in path.read_text()
    for words in copies:
        *sources, _ = words.split()
        origin = re.match(r"--from=(\S+)", words)
        if origin:
            assert origin[1] in stages(path), words
            continue
        for source in sources:
            assert (ROOT / source).exists(), words
            assert source not in ignored(), words


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_packages_come_from_groups_and_locks(path):
    project = (ROOT / "pyproject.toml").read_text()
    commands = " && ".join(arguments(path, "RUN"))
    groups = re.findall(r"--group (\S+)", commands)
    assert {"run", "preprocess", "report", "mlperf", "build"} <= set(groups)
    for group in groups:
        assert re.search(rf"^{group} = \[", project, re.MULTILINE), group
    for command in re.split(r"&&|;|\|", commands):
        if "pip install" not in command or "merlin-sok" in command or "scikit-build" in command:
            continue
        assert " -c " in command or "--no-index" in command, command.strip()
    # Each stage that uses it repeats it.
    versions = {w.partition("=")[2] for w in arguments(path, "ARG") if w.startswith("TENSORFLOW=")}
    assert len(versions) == 1
    (version,) = versions
    assert PYTHONS[path.name] in requirements.supported()[version]
    assert requirements.lock_path(version).exists()


def test_default_tensorflow_is_installed():
    assert f"TENSORFLOW={requirements.default_tensorflow()}" in arguments(
        ROOT / "Dockerfile", "ARG"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_build_arguments_are_declared_and_used(path):
    text = "\n".join(" ".join(words) for words in instructions(path))
    declared = {words.partition("=")[0] for words in arguments(path, "ARG")}
    for name in declared - {"DLRM_CUDA_ARCHITECTURES"}:  # setup.py reads this one
        assert re.search(rf"\${{?{name}\b", text), name
    environment = " ".join(arguments(path, "ENV"))
    for name in re.findall(r"\$\{?([A-Z][A-Z_]*)", text):
        assert name in declared or f"{name}=" in environment, name
