"""The commands of the Dockerfiles."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.support.deploy.dockerfiles import FILES, arguments
from tests.support.paths import ROOT


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_are_bash_and_name_existing_files(path):
    for command in arguments(path, "RUN"):
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for script in re.findall(r"(?<![\w/])(?:[\w]+/)*[\w]+\.(?:sh|py)\b", command):
            assert (ROOT / script).exists(), script
        for module in re.findall(r"python3? -m ([\w.]+)", command):
            assert module in ("pip", "venv"), "modules need files that are not copied yet"


def test_cuda_links_runs_without_the_project(tmp_path):
    """The image copies only this file before it installs Horovod."""
    script = shutil.copy(ROOT / "deploy" / "cuda_links.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
