"""The Dockerfiles, as far as they can be checked without building them.

Every file that they copy exists, every group and lock that they install from, every stage that they
copy from; and each command is Bash. Base images and Ubuntu's packages are not looked up.
"""

import re
import subprocess

import pytest

from deploy import requirements
from tests.support.paths import ROOT

FILES = sorted(ROOT.glob("Dockerfile*"))
# Of the image's Ubuntu, by default.
PYTHONS = {"Dockerfile": "3.12", "Dockerfile.merlin": "3.10"}


def instructions(path):
    """Returns [(name, arguments)]; continued lines are joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def arguments(path, name):
    return [words for found, words in instructions(path) if found == name]


def stages(path):
    """Returns the names of the stages before each instruction COPY --from may use."""
    return {words.split(" AS ")[1] for words in arguments(path, "FROM") if " AS " in words}


def ignored():
    """Returns .dockerignore's patterns."""
    return (ROOT / ".dockerignore").read_text().split()


def test_there_are_two():
    assert {path.name for path in FILES} == set(PYTHONS)


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
def test_stages_are_named_before_they_are_used(path):
    named = set()
    for name, words in instructions(path):
        if name == "FROM":
            image, _, alias = words.partition(" AS ")
            assert image in named or "/" in image or image == "${BASE}", words
            named.add(alias)
        elif name == "COPY" and words.startswith("--from="):
            assert words.split()[0].removeprefix("--from=") in named, words


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
    # Written in each stage that uses it.
    versions = {w.partition("=")[2] for w in arguments(path, "ARG") if w.startswith("TENSORFLOW=")}
    assert len(versions) == 1
    (version,) = versions
    assert PYTHONS[path.name] in requirements.supported()[version]
    assert requirements.lock_path(version).exists()


def test_the_default_tensorflow_is_installed():
    assert f"TENSORFLOW={requirements.default_tensorflow()}" in arguments(
        ROOT / "Dockerfile", "ARG"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_argument_of_the_build_is_used_and_declared(path):
    text = "\n".join(" ".join(words) for words in instructions(path))
    declared = {words.partition("=")[0] for words in arguments(path, "ARG")}
    for name in declared - {"DLRM_CUDA_ARCHITECTURES"}:  # setup.py reads this one
        assert re.search(rf"\${{?{name}\b", text), name
    environment = " ".join(arguments(path, "ENV"))
    for name in re.findall(r"\$\{?([A-Z][A-Z_]*)", text):
        assert name in declared or f"{name}=" in environment, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_are_bash_and_name_files_that_exist(path):
    for command in arguments(path, "RUN"):
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for script in re.findall(r"(?<![\w/])(?:[\w]+/)*[\w]+\.(?:sh|py)\b", command):
            assert (ROOT / script).exists(), script
        for module in re.findall(r"python3? -m ([\w.]+)", command):
            if module not in ("pip", "venv"):
                assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


def test_the_command_for_sok_is_supported():
    """Ubuntu 22.04 has Python 3.10."""
    _, _, after = (ROOT / "Dockerfile").read_text().partition("--build-arg UBUNTU=22.04")
    version = re.search(r"--build-arg TENSORFLOW=([\d.]+)", after)[1]
    assert "3.10" in requirements.supported()[version]
    assert "nvidia-nccl-cu12==" in requirements.lock_path(version).read_text()


def test_horovod_is_ours_with_nccl_and_mpi():
    commands = " ".join(arguments(ROOT / "Dockerfile", "RUN"))
    build = re.search(r"deploy/horovod/build\.sh([^&]*)", commands)[1]
    usage = (ROOT / "deploy" / "horovod" / "build.sh").read_text()
    options = re.findall(r"--[\w-]+", build)
    assert {"--environment", "--nccl", "--mpi", "--output"} == set(options)
    assert all(option in usage for option in options)
