"""Every program of the project without its packages; some without their standard output."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

SCRIPTS = ["main.py", "preprocess.py", "split_bin.py"]
PACKAGES = ["benchmarks", "dataset", "deploy", "model", "training"]
# Not for users: other programs start them.
WORKERS = {"benchmarks.training.reaper", "benchmarks.training.ours",
           "benchmarks.training.keras_dlrm", "benchmarks.training.torchrec_dlrm",
           "deploy.horovod.apply_patches", "deploy.horovod.environment"}  # fmt: skip


def _modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if '__name__ == "__main__"' in path.read_text():
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                yield name.removesuffix(".__main__")


PROGRAMS = [*SCRIPTS, *(name for name in _modules() if name not in WORKERS)]


def command(program, *options):
    started = [program] if program.endswith(".py") else ["-m", program]
    return [sys.executable, *options, *started, "--help"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_reports_a_missing_package_in_one_line(program):
    done = subprocess.run(
        command(program, "-S"), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    if not program.endswith(".py") and not program.startswith("dataset.") and not done.returncode:
        return  # Its --help needs no package.
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: the package ")
    assert "make venv" in done.stderr and len(done.stderr.splitlines()) == 1


def test_missing_module_of_the_project_is_a_traceback(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(
        "from storage import program_start\nprogram_start.begin()\nimport dataset.nothing"
    )
    done = subprocess.run(
        [sys.executable, str(path)], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("program", ["main.py", "split_bin.py", "dataset.validate"])
def test_program_reports_full_output_in_one_line(program):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(program), cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr
